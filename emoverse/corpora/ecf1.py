"""Read ECF 1.0 (NUSTM/MECPE): the pairs and times of ECF 2.0's train conversations, and which MELD clip each one is.

``all_data_pair.txt``: a header ``conversation utterances``, a line of pairs ``(target,cause),...`` (or blank), then
``number | speaker | emotion | text | Friends_S1E1: start - end``. ``all_data_pair_ECFvsMELD.txt`` has a MELD clip
(``train_dia559_utt3``) as the last field, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.corpora.base import Split
from emoverse.corpora.files import decode, episode_name
from emoverse.errors import RowErrors, UserError

_HEADER: Final = re.compile(r"(\d{1,9}) (\d{1,6})\s*\Z", re.ASCII)
_ROW: Final = re.compile(r"\d{1,6}\Z", re.ASCII)
_PAIR: Final = re.compile(r"\((\d{1,6}),(\d{1,6})\)", re.ASCII)
_TIMES: Final = re.compile(r"Friends_S(\d{1,3})E(\d{1,3}): *([\d:.]+) - ([\d:.]+)\s*\Z", re.ASCII)
_CLIP: Final = re.compile(r"(train|dev|test)_(dia\d+_utt\d+)\Z", re.ASCII)
_OWN: Final = re.compile(r"(?:^|/)train/dia(\d+)utt(\d{1,6})\.mp4\Z", re.ASCII)
_MELD: Final[dict[str, Split]] = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class Block:
    """One conversation of an ECF 1.0 file: pairs (target, cause), and each utterance's fields by number."""

    conversation: int
    pairs: tuple[tuple[int, int], ...]
    rows: dict[int, tuple[str, ...]]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the conversations of a file; raise UserError with file:line where its structure breaks."""
    lines = decode(path).replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    i = 0
    while i < len(lines):
        header = _HEADER.match(lines[i])
        if header is None or i + 1 + int(header[2]) >= len(lines):
            problem = "neither a header `conversation utterances` nor a complete conversation"
            raise UserError(problem, place=f"{path}:{i + 1}", remedy="fetch the file again")
        pairs = tuple((int(a), int(b)) for a, b in _PAIR.findall(lines[i + 1]))
        rows: dict[int, tuple[str, ...]] = {}
        for j in range(i + 2, i + 2 + int(header[2])):
            fields = tuple(part.strip() for part in lines[j].split(" | "))
            if len(fields) < 4 or not _ROW.match(fields[0]):
                problem = f"{len(fields)} fields where `number | speaker | emotion | text | time` has 5"
                raise UserError(problem, place=f"{path}:{j + 1}", remedy="fetch the file again")
            # A bar inside the text would be a sixth field: the text is all between emotion and the last one.
            rows[int(fields[0])] = (*fields[1:3], " | ".join(fields[3:-1]), fields[-1].strip("| "))
        yield Block(int(header[1]), pairs, rows)
        i += 2 + int(header[2])


def read_mapping(path: Path) -> dict[tuple[str, int], tuple[Split, str]]:
    """Map (conversation, utterance) to its MELD (split, clip stem), where there is one."""
    clips: dict[tuple[str, int], tuple[Split, str]] = {}
    for block in blocks(path):
        for number, fields in block.rows.items():
            clip = _CLIP.match(fields[-1])
            if clip:
                clips[str(block.conversation), number] = (_MELD[clip[1]], clip[2])
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
    own = _OWN.search(clip)
    mapped = mapping.get((own[1], int(own[2]))) if own else None
    if mapped is None or (root / clip).exists():
        return clip
    return f"{folders[mapped[0]]}/{mapped[1]}.mp4"


def rebuild(conversations: list[Any], path: Path) -> list[dict[str, Any]]:
    """Return subtask 2's train conversations from subtask 1's and ECF 1.0's, joined by conversation number.

    Raises:
        RowErrors: Conversations or utterances are missing on one side, or a time is unreadable; all are listed.
    """
    pairs = {block.conversation: block for block in blocks(path)}
    problems: list[str] = []
    joined: list[dict[str, Any]] = []
    for item in conversations:
        if not _readable(item):
            joined.append(item)  # the reader of conversations reports what is wrong with it
            continue
        number = int(item["conversation_ID"])
        block = pairs.get(number)
        if block is None:
            problems.append(f"{path.name}: conversation {number} is missing")
            continue
        emotions = {str(row.get("utterance_ID")): row.get("emotion") for row in item["conversation"]}
        rows = [_joined(row, number, block, path.name, problems) for row in item["conversation"]]
        listed = [[f"{target}_{emotions.get(str(target))}", str(cause)] for target, cause in block.pairs]
        joined.append({"conversation_ID": number, "conversation": rows, "emotion-cause_pairs": listed})
    if problems:
        raise RowErrors(problems, remedy="give ECF 1.0's all_data_pair.txt of the same conversations")
    return joined


def _readable(item: Any) -> bool:
    """Return whether a conversation of subtask 1 has a number and utterances."""
    if not isinstance(item, dict) or not re.fullmatch(r"[0-9]{1,9}", str(item.get("conversation_ID"))):
        return False
    rows = item.get("conversation")
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _joined(row: Mapping[str, Any], number: int, block: Block, name: str, problems: list[str]) -> dict[str, Any]:
    """Add episode, times and clip name to an utterance of subtask 1."""
    utterance = row.get("utterance_ID")
    times = _TIMES.match(block.rows.get(utterance, ("",))[-1]) if isinstance(utterance, int) else None
    if times is None:
        problems.append(f"{name}: conversation {number} utterance {utterance}: no `Friends_S1E1: start - end`")
        return dict(row)
    source = [episode_name(int(times[1]), int(times[2])), times[3], times[4]]
    return {**row, "video_source": source, "video_name": f"dia{number}utt{utterance}.mp4"}
