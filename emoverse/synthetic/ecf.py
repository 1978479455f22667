"""Write the sample's ECF in the layout of ECF 2.0 (SemEval-2024 task 3, subtask 2).

ECF distributes no clips; here they are `train/dia{c}utt{u}.mp4` and `test/dia{c}utt{u}.mp4`, the names of
`video_name` under one folder per split (the authors' records say `ECF2/subtask2_test/` for the latter). As in
the real corpora, train repeats dialogues of MELD, three of its test split among them: same episode, times, words
and clip, some with another emotion.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from emoverse.synthetic.expressions import EMOTIONS
from emoverse.synthetic.people import Conversation, Line, make_conversations, seeded_rng
from emoverse.synthetic.recording import plant_faults, planted_fault, write_line_clip

LINES: Final = {"train": 70, "test": 26}
FROM_MELD: Final = {"train": 5, "dev": 1, "test": 3}
"""Dialogues of each MELD split that ECF train repeats."""
CONFLICT_SHARE: Final = 0.15
"""Share of repeated utterances whose emotion is relabelled (17.7 % between the real corpora)."""
FIRST_TEST: Final = 101
_NO_CAUSE, _SELF, _EARLIER, _LATER = 0.04, 0.62, 0.58, 0.04


@dataclass(frozen=True)
class Annotated:
    """Hold a conversation with ECF's labels: one emotion per line, pairs (line, cause) counted from 1."""

    number: int
    conversation: Conversation
    emotions: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]


def plan_ecf(meld: dict[str, list[Conversation]], seed: int, scale: float) -> dict[str, list[Annotated]]:
    """Plan both splits; only dialogues of identities that also act in train are repeated from MELD test."""
    repeated: list[Conversation] = []
    for split, count in FROM_MELD.items():
        pool = [d for i, d in enumerate(meld[split]) if split != "test" or i % 3 != 1]
        repeated += pool[: max(1, round(count * scale))]
    lines = sum(len(dialogue.lines) for dialogue in repeated)
    fresh = make_conversations("ECF/train", round(LINES["train"] * scale) - lines, 1, seed)
    train = [_annotate(i, d, seed, relabel=1 < i <= len(repeated)) for i, d in enumerate([*repeated, *fresh], 1)]
    order = seeded_rng(seed, "ECF", "order").permutation(len(train))
    rng = seeded_rng(seed, "ECF", "numbers")
    number, test = FIRST_TEST, []
    for dialogue in make_conversations("ECF/test", round(LINES["test"] * scale), 1, seed, guests=True):
        test.append(_annotate(number, dialogue, seed, relabel=False))
        number += int(rng.integers(1, 4))
    return {"train": [train[int(i)] for i in order], "test": test}


def write_ecf(corpus: Path, plan: dict[str, list[Annotated]], seed: int) -> None:
    """Write both JSON files, the clips and their action units, planted faults included."""
    corpus.mkdir(parents=True, exist_ok=True)
    for split, conversations in plan.items():
        for item in conversations:
            for index, line in enumerate(item.conversation.lines, 1):
                write_line_clip(line, corpus, f"{split}/{_clip(item, index)}", seed)
        records = [_record(item) for item in conversations]
        text = json.dumps(records, indent=4, ensure_ascii=False)
        (corpus / f"Subtask_2_{split}.json").write_bytes(text.encode())
    plant_faults(corpus)


def _annotate(number: int, conversation: Conversation, seed: int, relabel: bool) -> Annotated:
    rng = seeded_rng(seed, "ECF", conversation.lines[0].key, "labels")
    emotions = [line.emotion for line in conversation.lines]
    for index in range(len(emotions)):
        if relabel and rng.random() < CONFLICT_SHARE:
            others = [name for name in EMOTIONS if name != emotions[index]]
            emotions[index] = "neutral" if emotions[index] != "neutral" else others[int(rng.integers(len(others)))]
    pairs: list[tuple[int, int]] = []
    for target, emotion in enumerate(emotions, 1):
        if emotion != "neutral":
            pairs += [(target, cause) for cause in _causes(target, emotions, conversation.lines, rng)]
    return Annotated(number, conversation, tuple(emotions), tuple(pairs))


def _causes(target: int, emotions: list[str], lines: tuple[Line, ...], rng: np.random.Generator) -> list[int]:
    """Draw the causes of line `target` (from 1): itself, another's latest feeling, rarely a later line."""
    if rng.random() < _NO_CAUSE:
        return []
    causes = [target] if rng.random() < _SELF else []
    if target > 1 and (not causes or rng.random() < _EARLIER):
        speaker = lines[target - 1].speaker
        felt = [i for i in range(1, target) if emotions[i - 1] != "neutral" and lines[i - 1].speaker != speaker]
        causes.append(felt[-1] if felt and rng.random() < 0.8 else target - 1)
    if target < len(lines) and rng.random() < _LATER:
        causes.append(target + 1)
    causes = causes or [target]
    return causes if rng.random() < 0.2 else sorted(causes)


def _clip(item: Annotated, index: int) -> str:
    return f"dia{item.number}utt{index}.mp4"


def _record(item: Annotated) -> dict[str, Any]:
    source = f"S{item.conversation.season:02d}E{item.conversation.episode:02d}"
    utterances = [
        {
            "utterance_ID": index,
            "text": line.text,
            "speaker": line.speaker,
            "emotion": emotion,
            "video_source": [source, _clock(line.start), _clock(line.end)],
            "video_name": _clip(item, index),
        }
        for index, (line, emotion) in enumerate(zip(item.conversation.lines, item.emotions, strict=True), 1)
    ]
    pairs = [[f"{target}_{item.emotions[target - 1]}", str(cause)] for target, cause in item.pairs]
    wrong = planted_fault("ECF", "cause index out of range")
    if str(item.number) == wrong.row:
        target = next(i for i, emotion in enumerate(item.emotions, 1) if emotion != "neutral")
        pairs.append([f"{target}_{item.emotions[target - 1]}", wrong.value])
    return {"conversation_ID": item.number, "conversation": utterances, "emotion-cause_pairs": pairs}


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
