"""``emoverse published``: write a test set exactly as the authors published it, from the annotation file alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from emoverse.amt.published import media_path, record, write_records
from emoverse.corpora import ecf, meld
from emoverse.corpora.base import Reading, Utterance
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
    """Write the file; raise RowErrors when an annotation is bad, because a hole would go unseen."""
    if args.corpus == "ecf" and args.split not in ecf.FILES:
        raise UserError("ECF has no validation split", place="--split", remedy="give train or test")
    read = meld.read_split if args.corpus == "meld" else ecf.read_split
    reading: Reading = read(args.annotations, args.split)
    if reading.quarantined:
        folder = args.annotations.parent
        problems = [row.said(folder) for row in reading.quarantined]
        raise RowErrors(problems, remedy="mend the rows; a published file has all of them")
    write_records(args.out, _records(reading.utterances, _TASK[args.corpus]))


def _records(utterances: list[Utterance], name: str) -> Iterator[bytes]:
    """Yield the records in the order of the annotation file."""
    dialogues: dict[str, list[Utterance]] = {}
    for one in utterances:
        dialogues.setdefault(one.dialogue_id, []).append(one)
    for one in utterances:
        asked = task(name).ask(Scene(utterance=one, dialogue=dialogues[one.dialogue_id], verbatim=True))
        if not isinstance(asked, LeftOut):
            yield record(name, asked.text, asked.answer, media_path(one, still=False), still=False)
