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

from emoverse.synthetic.faces import EMOTIONS
from emoverse.synthetic.lines import (
    Conversation,
    Line,
    make_conversations,
    plant_faults,
    planted_fault,
    seeded_rng,
    write_line_clip,
)

LINES: Final = {"train": 730, "test": 132}
FROM_MELD: Final = {"train": 24, "dev": 1, "test": 3}
"""Dialogues of each MELD split that ECF train repeats."""
CONFLICT_SHARE: Final = 0.15
"""Share of repeated utterances whose emotion is relabelled (17.7 % between the real corpora)."""
FIRST_TEST: Final = 101
_NO_CAUSE, _BOTH, _LATER = 0.03, 0.06, 0.01


@dataclass(frozen=True)
class Annotated:
    """A conversation with ECF's labels: one emotion per line, pairs (line, cause) counted from 1."""

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
    fresh = make_conversations("ECF/train", round(LINES["train"] * scale) - lines, 1, seed, small=True)
    train = [_annotate(i, d, seed, relabel=1 < i <= len(repeated)) for i, d in enumerate([*repeated, *fresh], 1)]
    order = seeded_rng(seed, "ECF", "order").permutation(len(train))
    rng = seeded_rng(seed, "ECF", "numbers")
    number, test = FIRST_TEST, []
    for dialogue in make_conversations("ECF/test", round(LINES["test"] * scale), 1, seed, guests=True, small=True):
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
            pairs += [(target, cause) for cause in _causes(target, conversation.lines, rng)]
    return Annotated(number, conversation, tuple(emotions), tuple(pairs))


def _causes(target: int, lines: tuple[Line, ...], rng: np.random.Generator) -> list[int]:
    """Draw the causes of line `target` (from 1): the line that it answers, else itself; rarely both, or a later one."""
    if rng.random() < _NO_CAUSE:
        return []
    answered = lines[target - 1].answers
    causes = [target] if answered is None else [answered + 1]
    if answered is not None and rng.random() < _BOTH:
        causes.append(target)
    if target < len(lines) and rng.random() < _LATER:
        causes.append(target + 1)
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
