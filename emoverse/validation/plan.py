"""Read a corpus's annotations and settle which clips are to be decoded, before any of them is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emoverse.corpora import reader
from emoverse.corpora.base import Reading
from emoverse.errors import UserError
from emoverse.media.action_units import table_of
from emoverse.media.errors import ClipError
from emoverse.media.locate import ClipFiles
from emoverse.media.measure import Measurer
from emoverse.media.work import Task
from emoverse.params import MediaParams
from emoverse.validation.expectations import Finding
from emoverse.validation.known import known_faults
from emoverse.validation.ledger import Ledger
from emoverse.validation.suites import check_annotations


@dataclass(frozen=True)
class Plan:
    """What stands to be done: ``tasks``, in order of utterance id, are one for each good row of ``ledger``."""

    corpus: str
    raw: Path
    reading: Reading
    ledger: Ledger
    findings: list[Finding]
    tasks: list[Task]


def make_plan(corpus: str, raw: Path, media: MediaParams, measuring: Measurer | None = None) -> Plan:
    """Read and check the annotations and find each row's clip; the same for every machine that sees the same folder.

    Raises UserError for a corpus without rows, or with a link that leads out of it.
    """
    files = ClipFiles(raw)
    if links := files.leaving():
        remedy = "put what it points to into the corpus; DVC's cache.type must be copy, reflink or hardlink"
        raise UserError("a link leads out of the corpus", place=", ".join(links), remedy=remedy)
    reading = reader(corpus)(raw)
    if not reading.rows:
        raise UserError("no annotated rows", place=str(raw), remedy="put the corpus's annotation files there")
    ledger = Ledger(reading, known_faults(corpus))
    findings = check_annotations(ledger.good)
    ledger.drop_findings(findings)
    return Plan(corpus, raw, reading, ledger, findings, _tasks(ledger, files, raw, media, measuring))


def _tasks(ledger: Ledger, files: ClipFiles, raw: Path, media: MediaParams, measuring: Measurer | None) -> list[Task]:
    """Return a task for each good row whose clip is there, in order of utterance id; set the other rows aside."""
    tasks: list[Task] = []
    failures: dict[int, tuple[str, str, str]] = {}
    for position, u in enumerate(ledger.good):
        try:
            path = files.find(u.clip)
        except ClipError as error:
            failures[position] = ("clip", error.reason, error.detail)
            continue
        units = table_of(raw, path.relative_to(raw).as_posix())
        task = Task(
            clip_id=u.utterance_id, clip=u.clip, path=path.absolute(), units=units, params=media, measurer=measuring
        )
        tasks.append(task)
    ledger.drop(failures)
    ledger.leave_out(files.beside(ledger.mentioned))
    return tasks
