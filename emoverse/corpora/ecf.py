"""Read ECF 2.0 (NUSTM/SemEval-2024_ECAC, subtask 2): conversations of Friends with emotion-cause pairs.

``Subtask_2_train.json``, ``Subtask_2_test.json``; clips ``{train,test}/dia{conversation}utt{utterance}.mp4``. There is
no validation split. Where the train file is absent it is rebuilt from ``Subtask_1_train.json`` (text, speaker, emotion)
and ECF 1.0's ``all_data_pair.txt`` (pairs, times), which hold the same conversations. The organisers distribute no
clips: a train clip that is not there under its own name is MELD's, below ``MELD/``, where
``all_data_pair_ECFvsMELD.txt`` maps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from emoverse.corpora import EMOTIONS, Corpus, Reading, Split, Utterance, meld, merged
from emoverse.corpora.files import (
    BadRow,
    Problems,
    cleaned,
    decode,
    emotion_hint,
    episode_name,
    faults_of,
    find_folder,
    json_list,
    seconds,
    unsafe,
)
from emoverse.errors import RowErrors, UserError, did_you_mean

FILES: Final[dict[Split, tuple[str, str]]] = {
    "train": ("Subtask_2_train.json", "train"),
    "test": ("Subtask_2_test.json", "test"),
}
"""Each split's annotation file and clip folder."""
SUBTASK_1: Final = "Subtask_1_train.json"
ECF1: Final = "all_data_pair.txt"
MAPPING: Final = "all_data_pair_ECFvsMELD.txt"
_ECF1_HEADER: Final = re.compile(r"(\d{1,9}) (\d{1,6})\s*\Z", re.ASCII)
_ECF1_ROW: Final = re.compile(r"\d{1,6}\Z", re.ASCII)
_ECF1_PAIR: Final = re.compile(r"\((\d{1,6}),(\d{1,6})\)", re.ASCII)
_ECF1_TIMES: Final = re.compile(r"Friends_S(\d{1,3})E(\d{1,3}): *([\d:.]+) - ([\d:.]+)\s*\Z", re.ASCII)
_MELD_CLIP: Final = re.compile(r"(train|dev|test)_(dia\d+_utt\d+)\Z", re.ASCII)
_OWN_CLIP: Final = re.compile(r"(?:^|/)train/dia(\d+)utt(\d{1,6})\.mp4\Z", re.ASCII)
_MELD_SPLITS: Final[dict[str, Split]] = {"train": "train", "dev": "validation", "test": "test"}
PAIRS: Final = "emotion-cause_pairs"
_TARGET: Final = re.compile(r"(\d{1,6})(?:_([a-z]+))?\Z", re.ASCII | re.IGNORECASE)
_CAUSE: Final = re.compile(r"(\d{1,6})(?:_.*)?\Z", re.ASCII | re.DOTALL)  # subtask 1 adds the span: "1_I do not want"


def read(root: Path) -> Reading:
    """Read the whole corpus; raise UserError when a file is missing, not JSON or not UTF-8."""
    readings = []
    for split, (name, folder) in FILES.items():
        if split == "train" and not (root / name).is_file() and (root / SUBTASK_1).is_file():
            reading = _rebuilt(root)
        else:
            reading = read_split(root / name, split)
        readings.append(_located(reading, folder, find_folder(root, (folder,), "dia*[0-9]utt*")))
    reading = merged(readings)
    if not (root / MAPPING).is_file():
        return reading
    mapping = read_mapping(root / MAPPING)
    folders = {split: f"MELD/{meld.clip_folder(root / 'MELD', split)}" for split in meld.FILES}
    utterances = [replace(row, clip=meld_clip(row.clip, mapping, folders, root)) for row in reading.utterances]
    bad = [replace(row, clip=meld_clip(row.clip, mapping, folders, root)) for row in reading.quarantined]
    return Reading(utterances, bad, reading.notes)


def _located(reading: Reading, folder: str, actual: str) -> Reading:
    """Return the reading with its clips in the folder that has them."""
    if actual == folder:
        return reading
    utterances = [replace(row, clip=row.clip.replace(folder, actual, 1)) for row in reading.utterances]
    bad = [replace(row, clip=row.clip.replace(folder, actual, 1)) for row in reading.quarantined]
    return Reading(utterances, bad, reading.notes)


def read_split(path: Path, split: Split) -> Reading:
    """Read one annotation file of subtask 2 as a split of ECF; raise UserError when it is another kind of file."""
    conversations = load(path)
    _check_kind(conversations, path)
    return read_conversations(conversations, split, path.name)


def load(path: Path) -> list[Any]:
    """Return the JSON list of conversations; raise UserError with line and column where it is none."""
    return json_list(path, "conversations", "give a Subtask_2 file, or fetch it again")


def _check_kind(conversations: list[Any], path: Path) -> None:
    """Raise UserError where nothing in the file has what all must have: one fault of the file, not one of each row."""
    items = [item for item in conversations if isinstance(item, dict)]
    listed = [item["conversation"] for item in items if isinstance(item.get("conversation"), list)]
    rows = [row for rows in listed for row in rows if isinstance(row, dict)]
    lacking = [f"conversation has {PAIRS!r}"] if items and not any(PAIRS in item for item in items) else []
    keys = ("emotion", "video_source", "video_name")
    lacking += [f"utterance has {key!r}" for key in keys if rows and not any(key in row for row in rows)]
    if lacking:
        remedy = "give an annotated file of subtask 2: subtask 1's name no clips"
        raise UserError(f"no {', no '.join(lacking)}", place=str(path), remedy=remedy)


def read_conversations(conversations: list[Any], split: Split, name: str) -> Reading:
    """Turn conversations into utterances; a row is ``[i].conversation[j]``, a position in the JSON file ``name``."""
    problems = Problems(name)
    good: list[Utterance] = []
    seen: dict[str, int] = {}
    for i, item in enumerate(conversations):
        fault = _fault(item)
        if fault:
            problems.add(f"ecf/{split}/[{i}]", f"[{i}]", *fault)
            continue
        dialogue = str(item["conversation_ID"])
        if dialogue in seen:
            _repeated(item, i, split, problems, f"conversation {dialogue} is already at [{seen[dialogue]}]")
            continue
        seen[dialogue] = i
        good += _conversation(item, i, split, problems)
    return Reading(good, problems.bad_rows, dict(problems.notes))


def _conversation(item: Mapping[str, Any], i: int, split: Split, problems: Problems) -> list[Utterance]:
    """Read one conversation; an utterance is set aside once, for its own faults and those of its pairs."""
    rows = [row if isinstance(row, dict) else {} for row in item["conversation"]]
    dialogue, folder = str(item["conversation_ID"]), FILES[split][1]
    numbers = [str(row.get("utterance_ID")) for row in rows]
    pairs = read_pairs(item[PAIRS], {number: row.get("emotion") for number, row in zip(numbers, rows, strict=True)})
    good: dict[int, Utterance] = {}
    for j, (number, row) in enumerate(zip(numbers, rows, strict=True)):
        stem, where = f"dia{dialogue}utt{number}", f"[{i}].conversation[{j}]"
        row_id, faults = f"ecf/{split}/{stem}", list(pairs.faults.get(number, []))
        if row.get("emotion") != "neutral":
            faults += pairs.unreadable  # one of them may be its own
        try:
            utterance = _utterance(row, split, row_id, dialogue, where, pairs.causes.get(number, ()), problems)
            if utterance.position in good:
                raise BadRow("utterance_ID", "duplicate-id", f"{row_id} occurs twice in its conversation")
            if not faults:
                good[utterance.position] = utterance
        except BadRow as fault:
            faults = [*faults_of(fault, _checks(row)), *faults]
        if faults:
            problems.add_all(row_id, where, faults, clip=f"{folder}/{stem}.mp4")
    for j, stray in pairs.stray.items():
        problems.add_all(f"ecf/{split}/dia{dialogue}#pair{j}", f"[{i}].{PAIRS}[{j}]", [stray])
    return [good[position] for position in sorted(good)]


def _repeated(item: Mapping[str, Any], i: int, split: Split, problems: Problems, detail: str) -> None:
    """Set aside each utterance of a conversation whose number another one has."""
    head = f"ecf/{split}/dia{item['conversation_ID']}"
    for j, row in enumerate(item["conversation"]):
        number = row.get("utterance_ID") if isinstance(row, dict) else None
        problems.add(f"{head}utt{number}", f"[{i}].conversation[{j}]", "conversation_ID", "duplicate-id", detail)


def _utterance(
    row: Mapping[str, Any],
    split: Split,
    row_id: str,
    dialogue: str,
    where: str,
    causes: tuple[int, ...],
    problems: Problems,
) -> Utterance:
    """Turn one JSON utterance into a row of the table; raise BadRow for its first fault."""
    number, text = _number(row.get("utterance_ID")), _text(row.get("text"), problems.notes)
    speaker, emotion = _speaker(row.get("speaker")), _emotion(row.get("emotion"))
    episode, start, end = _span(row.get("video_source"))
    clip = row.get("video_name")
    if clip != f"dia{dialogue}utt{number}.mp4":
        raise BadRow("video_name", "bad-clip-name", f"{clip!r} is not dia{dialogue}utt{number}.mp4")
    return Utterance(
        utterance_id=row_id, corpus="ecf", split=split, dialogue_id=dialogue, position=number, speaker=speaker or None,
        text=text, emotion=emotion, polarity=None, sentiment=None, intensities=None, causes=causes,
        episode=episode, start=start, end=end, clip=f"{FILES[split][1]}/{clip}", source=f"{problems.name}:{where}",
    )  # fmt: skip


def _checks(row: Mapping[str, Any]) -> list[Callable[[], object]]:
    """Return the checks of an utterance but that of its clip's name, each on its own."""
    checks: dict[str, Callable[[Any], object]] = {
        "utterance_ID": _number,
        "text": _text,
        "speaker": _speaker,
        "emotion": _emotion,
        "video_source": _span,
    }
    return [partial(check, row.get(key)) for key, check in checks.items()]


def _number(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number < 1_000_000:
        raise BadRow("utterance_ID", "bad-number", f"{number!r} is not a whole number from 1")
    return number


def _text(text: Any, notes: Counter[str] | None = None) -> str:
    if not isinstance(text, str):
        raise BadRow("text", "empty-text", f"{text!r} is not a string")
    if "\0" in text:
        raise BadRow("text", "nul-byte", f"NUL at character {text.index(chr(0)) + 1}")
    return cleaned("text", text, Counter() if notes is None else notes)


def _speaker(speaker: Any) -> str:
    if not isinstance(speaker, str):
        raise BadRow("speaker", "bad-speaker", f"{speaker!r} is not a name")
    return speaker


def _emotion(emotion: Any) -> str:
    if not isinstance(emotion, str) or emotion not in EMOTIONS:
        raise BadRow("emotion", "bad-label", f"{emotion!r} is not an emotion; {emotion_hint(str(emotion))}")
    return emotion


def _span(source: Any) -> tuple[str, float, float]:
    """Return episode, start and end in seconds of a ``video_source``."""
    if not isinstance(source, list) or list(map(type, source)) != [str, str, str]:
        raise BadRow("video_source", "bad-time", f"{source!r} is not [episode, start, end]")
    start, end = seconds(source[1]), seconds(source[2])
    if start is None or end is None:
        raise BadRow("video_source", "bad-time", f"{source[1]!r} - {source[2]!r} is not hh:mm:ss.mmm")
    if end < start:
        raise BadRow("video_source", "span-backwards", f"ends at {source[2]}, before it begins at {source[1]}")
    return source[0], start, end


def _fault(item: Any) -> tuple[str, str, str] | None:
    """Return (column, reason, detail) of a conversation that cannot be read at all."""
    if not isinstance(item, dict):
        return "", "bad-conversation", f"a {type(item).__name__} where a conversation should be"
    for key in ("conversation_ID", "conversation", PAIRS):
        if key not in item:
            return key, "bad-conversation", f"{key!r} is missing; {did_you_mean(key, map(str, item))}"
    number = item["conversation_ID"]
    if isinstance(number, bool) or not isinstance(number, int | str) or unsafe(str(number)):
        return "conversation_ID", "bad-number", f"{number!r} is not a conversation number"
    for key in ("conversation", PAIRS):
        if not isinstance(item[key], list):
            return key, "bad-conversation", f"{key!r} is not a list"
    return None


def _rebuilt(root: Path) -> Reading:
    """Read train from subtask 1 and ECF 1.0; raise UserError when the second is absent."""
    if not (root / ECF1).is_file():
        remedy = f"add {FILES['train'][0]}, or MECPE's {ECF1} beside {SUBTASK_1}"
        raise UserError(f"{FILES['train'][0]} is missing", place=str(root), remedy=remedy)
    conversations = rebuild_subtask_2(load(root / SUBTASK_1), root / ECF1)
    return read_conversations(conversations, "train", SUBTASK_1)


def rebuild_subtask_2(conversations: list[Any], path: Path) -> list[dict[str, Any]]:
    """Return subtask 2's train conversations from subtask 1's and ECF 1.0's, joined by conversation number.

    Raises:
        RowErrors: Conversations or utterances are missing on one side, or a time is unreadable; all are listed.
    """
    pairs = {block.conversation: block for block in ecf1_blocks(path)}
    problems: list[str] = []
    joined: list[dict[str, Any]] = []
    for item in conversations:
        if not _is_joinable(item):
            joined.append(item)  # the reader of conversations reports what is wrong with it
            continue
        number = int(item["conversation_ID"])
        block = pairs.get(number)
        if block is None:
            problems.append(f"{path.name}: conversation {number} is missing")
            continue
        emotions = {str(row.get("utterance_ID")): row.get("emotion") for row in item["conversation"]}
        rows = [_with_times(row, number, block, path.name, problems) for row in item["conversation"]]
        listed = [[f"{target}_{emotions.get(str(target))}", str(cause)] for target, cause in block.pairs]
        joined.append({"conversation_ID": number, "conversation": rows, "emotion-cause_pairs": listed})
    if problems:
        raise RowErrors(problems, remedy="give ECF 1.0's all_data_pair.txt of the same conversations")
    return joined


def _is_joinable(item: Any) -> bool:
    """Return whether a conversation of subtask 1 has a number and utterances."""
    if not isinstance(item, dict) or not re.fullmatch(r"[0-9]{1,9}", str(item.get("conversation_ID"))):
        return False
    rows = item.get("conversation")
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _with_times(
    row: Mapping[str, Any], number: int, block: Ecf1Block, name: str, problems: list[str]
) -> dict[str, Any]:
    """Add episode, times and clip name to an utterance of subtask 1."""
    utterance = row.get("utterance_ID")
    times = _ECF1_TIMES.match(block.rows.get(utterance, ("",))[-1]) if isinstance(utterance, int) else None
    if times is None:
        problems.append(f"{name}: conversation {number} utterance {utterance}: no `Friends_S1E1: start - end`")
        return dict(row)
    source = [episode_name(int(times[1]), int(times[2])), times[3], times[4]]
    return {**row, "video_source": source, "video_name": f"dia{number}utt{utterance}.mp4"}


@dataclass(frozen=True)
class Ecf1Block:
    """One conversation of an ECF 1.0 file: pairs (target, cause), and each utterance's fields by number."""

    conversation: int
    pairs: tuple[tuple[int, int], ...]
    rows: dict[int, tuple[str, ...]]


def ecf1_blocks(path: Path) -> Iterator[Ecf1Block]:
    """Yield the conversations of a file of ECF 1.0 (NUSTM/MECPE); raise UserError where its structure breaks.

    ``all_data_pair.txt``: a header ``conversation utterances``, a line of pairs ``(target,cause),...`` (or blank), then
    ``number | speaker | emotion | text | Friends_S1E1: start - end``. ``all_data_pair_ECFvsMELD.txt`` has a MELD clip
    (``train_dia559_utt3``) as the last field, or nothing.
    """
    lines = decode(path).replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    i = 0
    while i < len(lines):
        header = _ECF1_HEADER.match(lines[i])
        if header is None or i + 1 + int(header[2]) >= len(lines):
            problem = "neither a header `conversation utterances` nor a complete conversation"
            raise UserError(problem, place=f"{path}:{i + 1}", remedy="fetch the file again")
        pairs = tuple((int(a), int(b)) for a, b in _ECF1_PAIR.findall(lines[i + 1]))
        rows: dict[int, tuple[str, ...]] = {}
        for j in range(i + 2, i + 2 + int(header[2])):
            fields = tuple(part.strip() for part in lines[j].split(" | "))
            if len(fields) < 4 or not _ECF1_ROW.match(fields[0]):
                problem = f"{len(fields)} fields where `number | speaker | emotion | text | time` has 5"
                raise UserError(problem, place=f"{path}:{j + 1}", remedy="fetch the file again")
            # A bar inside the text would be a sixth field: the text is all between emotion and the last one.
            rows[int(fields[0])] = (*fields[1:3], " | ".join(fields[3:-1]), fields[-1].strip("| "))
        yield Ecf1Block(int(header[1]), pairs, rows)
        i += 2 + int(header[2])


def read_mapping(path: Path) -> dict[tuple[str, int], tuple[Split, str]]:
    """Map (conversation, utterance) to its MELD (split, clip stem), where there is one."""
    clips: dict[tuple[str, int], tuple[Split, str]] = {}
    for block in ecf1_blocks(path):
        for number, fields in block.rows.items():
            clip = _MELD_CLIP.match(fields[-1])
            if clip:
                clips[str(block.conversation), number] = (_MELD_SPLITS[clip[1]], clip[2])
    return clips


def meld_clip(
    clip: str, mapping: Mapping[tuple[str, int], tuple[Split, str]], folders: Mapping[Split, str], root: Path
) -> str:
    """Return the MELD clip of a train clip that does not exist under its own name; other clips unchanged.

    Args:
        clip: Path of the clip, relative to the root of ECF.
        mapping: (conversation, utterance) -> MELD's (split, clip stem).
        folders: Folders of MELD's clips by split, relative to the root of ECF.
        root: Root of ECF.
    """
    own = _OWN_CLIP.search(clip)
    mapped = mapping.get((own[1], int(own[2]))) if own else None
    if mapped is None or (root / clip).exists():
        return clip
    return f"{folders[mapped[0]]}/{mapped[1]}.mp4"


class Pairs(NamedTuple):
    """A conversation's pairs by target, whose utterance number is a string, as in the pairs.

    ``causes`` are in file order. ``faults`` set their target aside: with one cause missing the right answer would be
    wrong. ``stray`` pairs have no readable target, or one that does not exist; they are listed by their index.
    ``unreadable`` are those without a readable target: each may belong to any emotional utterance.
    """

    causes: dict[str, tuple[int, ...]]
    faults: dict[str, list[BadRow]]
    stray: dict[int, BadRow]
    unreadable: list[BadRow]


def read_pairs(pairs: Sequence[Any], emotions: Mapping[str, Any]) -> Pairs:
    """Read the pairs of a conversation; ``emotions`` maps its utterance numbers to their annotated emotions.

    A pair must name two utterances of the conversation; its emotion, if given, must be its target's. Numbers may be
    numbers or strings: ``["3_joy", "1"]``, ``["3_joy", 1]``, ``[3, 1]`` and ``"3_joy,1"`` are one pair.
    """
    causes: dict[str, list[int]] = {}
    faults: dict[str, list[BadRow]] = {}
    stray: dict[int, BadRow] = {}
    unreadable: list[BadRow] = []
    for j, pair in enumerate(pairs):
        target, cause, fault = _read_pair(pair, emotions)
        if not fault:
            if cause not in causes.setdefault(target, []):
                causes[target].append(cause)
        elif target in emotions:
            faults.setdefault(target, []).append(BadRow(f"{PAIRS}[{j}]", *fault))
        else:
            stray[j] = BadRow(PAIRS, *fault)
            if not target:
                unreadable.append(BadRow(f"{PAIRS}[{j}]", "bad-pair", f"may belong to this utterance: {fault[1]}"))
    return Pairs({target: tuple(listed) for target, listed in causes.items()}, faults, stray, unreadable)


def _read_pair(pair: Any, emotions: Mapping[str, Any]) -> tuple[str, int, tuple[str, str] | None]:
    """Return target, cause and (reason, detail) of a problem; the target is empty when it cannot be read."""
    parts = pair.strip(" ()[]").split(",", 1) if isinstance(pair, str) else pair if isinstance(pair, list) else []
    texts = [_as_text(part) for part in parts]
    left = _TARGET.match(texts[0]) if texts else None
    if left is None:
        leading = re.match(r"\d{1,6}(?!\d)", texts[0] if texts else "", re.ASCII)
        return leading[0] if leading else "", 0, ("bad-pair", f"{pair!r} is not [target_emotion, cause]")
    number, emotion = left[1], left[2]
    count = f"the conversation has {len(emotions)} utterances"
    if number not in emotions:
        return number, 0, ("bad-cause", f"target {number} does not exist; {count}")
    if len(texts) != 2:
        return number, 0, ("bad-pair", f"{pair!r} is not [target_emotion, cause]")
    cause = _CAUSE.match(texts[1])
    if cause is None or cause[1] not in emotions:
        return number, 0, ("bad-cause", f"cause {parts[1]!r} does not exist; {count}")
    if emotion and emotion.lower() != str(emotions[number]).lower():
        return number, 0, ("bad-pair", f"{parts[0]!r} contradicts the utterance's emotion {emotions[number]!r}")
    return number, int(cause[1]), None


def _as_text(part: Any) -> str:
    """Return a number or a string as text; empty for anything else."""
    if isinstance(part, str):
        return part.strip()
    is_whole = isinstance(part, int | float) and not isinstance(part, bool) and part == part // 1
    return str(int(part)) if is_whole else ""


def _published_clip(utterance: Utterance) -> str:
    """Return the authors' path of a clip: the folder is named after the subtask."""
    return f"ECF2/subtask2_{utterance.split}/{utterance.clip.rpartition('/')[2]}"


CORPUS = Corpus(name="ecf", read=read, published_clip=_published_clip)
