"""``emoverse published``: write a test set exactly as the authors published it, from the annotation file alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from emoverse.amt.published import media_path, record, write_records
from emoverse.corpora import ecf, meld
from emoverse.corpora.base import Reading, Split, Utterance
from emoverse.errors import RowErrors, UserError
from emoverse.tasks import task
from emoverse.tasks.base import LeftOut, Scene

_TASK: Final = {"meld": "mer", "ecf": "ecpe"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("corpus", choices=sorted(_TASK))
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="MELD's CSV or ECF's JSON")
    parser.add_argument("--split", choices=("train", "validation", "test"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def main(args: argparse.Namespace) -> None:
    """Write the file; raise RowErrors when an annotation is bad, because a hole would go unseen.

    Raises UserError for the file of another split, and for one without utterances.
    """
    if args.corpus == "ecf" and args.split not in ecf.FILES:
        raise UserError("ECF has no validation split", place="--split", remedy="give train or test")
    _check_split(args.annotations, args.split, meld.FILES if args.corpus == "meld" else ecf.FILES)
    read = meld.read_split if args.corpus == "meld" else ecf.read_split
    reading: Reading = read(args.annotations, args.split)
    if reading.quarantined:
        folder = args.annotations.parent
        problems = [row.said(folder) for row in reading.quarantined]
        raise RowErrors(problems, remedy="mend the rows; a published file has all of them")
    if not reading.utterances:
        raise UserError("has no utterances", place=str(args.annotations), remedy="fetch the file again")
    write_records(args.out, _records(reading.utterances, _TASK[args.corpus]))


def _check_split(path: Path, split: Split, files: Mapping[Split, tuple[str, str]]) -> None:
    """Raise UserError for a file that goes by another split's name: its ids and clips would be another split's."""
    own = next((other for other, (name, _) in files.items() if name == path.name), split)
    if own != split:
        remedy = f"give --split {own}, or {files[split][0]}"
        raise UserError(f"is the {own} split, not {split}", place=str(path), remedy=remedy)


def _records(utterances: list[Utterance], name: str) -> Iterator[bytes]:
    """Yield the records in the order of the annotation file."""
    dialogues: dict[str, list[Utterance]] = {}
    for one in utterances:
        dialogues.setdefault(one.dialogue_id, []).append(one)
    for one in utterances:
        asked = task(name).ask(Scene(utterance=one, dialogue=dialogues[one.dialogue_id], verbatim=True))
        if not isinstance(asked, LeftOut):
            yield record(name, asked.text, asked.answer, media_path(one, still=False), still=False)
