"""Decide what a validation has to decode, and remember what is already done."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Final

from emoverse.config import MediaParams
from emoverse.corpora import Quarantined, Reading, get_corpus
from emoverse.corpora.files import nfc
from emoverse.errors import UserError
from emoverse.media.action_units import Measurer, table_of
from emoverse.media.probe import ClipError
from emoverse.media.workers import Task
from emoverse.validation.expectations import Finding, check_annotations

VIDEO: Final = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".wmv"})
_SHOWN: Final = 3
_WHOLE_SPLIT: Final = 10  # rows; of a smaller split all clips may be missing one by one


@dataclass(frozen=True)
class Plan:
    """The work to do: ``tasks``, in order of utterance id, are one for each good row of ``ledger``."""

    corpus: str
    raw: Path
    reading: Reading
    ledger: Ledger
    findings: list[Finding]
    tasks: list[Task]


def make_plan(corpus: str, raw: Path, media: MediaParams, measuring: Measurer | None = None) -> Plan:
    """Read and check the annotations and find each row's clip; the same for every machine that sees the same folder.

    Args:
        corpus: Name of the corpus.
        raw: Its folder.
        media: Section ``media``.
        measuring: Backend for clips without an OpenFace table.

    Raises:
        UserError: The corpus has no rows, or has a link that leads out of it.
    """
    files = ClipFiles(raw)
    if links := files.links_outside():
        remedy = "put what it points to into the corpus; DVC's cache.type must be copy, reflink or hardlink"
        count = "a link leads" if len(links) == 1 else f"{len(links)} links lead"
        shown = ", ".join(links[:_SHOWN]) + (" ..." if len(links) > _SHOWN else "")
        raise UserError(f"{count} out of the corpus", place=shown, remedy=remedy)
    reading = get_corpus(corpus).read(raw)
    if not reading.rows:
        raise UserError("no annotated rows", place=str(raw), remedy="put the corpus's annotation files there")
    ledger = Ledger(reading, known_faults(corpus))
    findings = check_annotations(ledger.good, get_corpus(corpus).emotions)
    ledger.drop_findings(findings)
    return Plan(corpus, raw, reading, ledger, findings, _tasks(ledger, files, raw, media, measuring))


def _tasks(ledger: Ledger, files: ClipFiles, raw: Path, media: MediaParams, measuring: Measurer | None) -> list[Task]:
    """Return a task for each good row whose clip is there, in order of utterance id; set the other rows aside."""
    tasks: list[Task] = []
    failures: dict[int, tuple[str, str, str]] = {}
    missing: defaultdict[str, list[str]] = defaultdict(list)  # clips by split
    for position, u in enumerate(ledger.good):
        try:
            path = files.find(u.clip)
        except ClipError as error:
            failures[position] = ("clip", error.reason, error.detail)
            if error.reason == "clip-missing":
                missing[u.split].append(u.clip)
            continue
        units = table_of(raw, path.relative_to(raw).as_posix())
        task = Task(
            clip_id=u.utterance_id, clip=u.clip, path=path.absolute(), units=units, params=media, measurer=measuring
        )
        tasks.append(task)
    _check_not_all_missing(missing, Counter(u.split for u in ledger.good), files)
    ledger.drop(failures)
    ledger.leave_out(files.unmentioned_videos(ledger.mentioned))
    return tasks


def _check_not_all_missing(missing: Mapping[str, list[str]], rows: Mapping[str, int], files: ClipFiles) -> None:
    """Raise UserError for a split without any clip: its clips are elsewhere, and its rows would all say so."""
    problems = [
        f"none of the {len(clips)} clips of split {split} exists: {files.missing_detail(clips[0])}"
        for split, clips in sorted(missing.items())
        if len(clips) == rows[split] and len(clips) >= _WHOLE_SPLIT
    ]
    if problems:
        others = sorted({name.rpartition("/")[0] or "." for name in files.unmentioned_videos(set())})
        there = f" (there are videos in {', '.join(others[:_SHOWN])})" if others else " (there is no video at all)"
        remedy = "move the clips there; to go without a split, remove its rows from its annotation file"
        raise UserError("; ".join(problems) + there, place=str(files.root), remedy=remedy)


@dataclass(frozen=True)
class Warned:
    """A row that stays although it does not meet an expectation; ``measured`` is the value, as "column=value"."""

    utterance_id: str
    clip: str
    reason: str
    measured: str


@dataclass(frozen=True)
class KnownFault:
    """One report: clip patterns (relative to the corpus root), its text, and where it was published."""

    clips: tuple[str, ...]
    fault: str
    source: str

    def covers(self, clip: str) -> bool:
        """Return whether a clip is one of those reported."""
        return any(fnmatchcase(clip, pattern) for pattern in self.clips)


def known_faults(corpus: str) -> list[KnownFault]:
    """Return what has been reported about a corpus's clips; empty for a corpus without reports."""
    text = resources.files("emoverse.validation").joinpath("known_media.json").read_text("utf-8")
    return [KnownFault(tuple(e["clips"]), e["fault"], e["source"]) for e in json.loads(text).get(corpus, [])]


def fault_of(clip: str, faults: Iterable[KnownFault]) -> KnownFault | None:
    """Return the first report that covers a clip."""
    return next((fault for fault in faults if fault.covers(clip)), None)


class Ledger:
    """The rows of one corpus: ``good`` shrinks as checks find faults, ``set_aside`` grows by as much."""

    def __init__(self, reading: Reading, faults: list[KnownFault]) -> None:
        self.rows = reading.rows
        self.good = sorted(reading.utterances, key=lambda u: u.utterance_id)
        named = [u.clip for u in reading.utterances] + [row.clip for row in reading.quarantined]
        self.mentioned = {nfc(clip) for clip in named if clip}
        self._faults = faults
        self.set_aside: list[tuple[Quarantined, bool]] = [(row, False) for row in reading.quarantined]
        self.unannotated: list[tuple[Quarantined, bool]] = []
        self._warned: list[Warned] = []

    def drop(self, failures: dict[int, tuple[str, str, str]]) -> None:
        """Set aside good rows by position: each maps to (column, reason, detail)."""
        for position, (column, reason, detail) in sorted(failures.items()):
            u = self.good[position]
            row = Quarantined(
                row_id=u.utterance_id, source=u.source, column=column, reason=reason, detail=detail, clip=u.clip
            )
            self.set_aside.append((row, column == "clip" and fault_of(u.clip, self._faults) is not None))
        self.good = [u for position, u in enumerate(self.good) if position not in failures]

    def drop_findings(self, findings: Iterable[Finding], positions: list[int] | None = None, column: str = "") -> None:
        """Set aside the rows that failed an expectation; ``positions`` maps a finding's rows to good rows.

        The first expectation a row fails gives the reason; warnings set nothing aside, and are in ``warned``.
        """
        failures: dict[int, tuple[str, str, str]] = {}
        for finding in findings:
            if finding.check.severity == "warning":
                for row, value in zip(finding.rows, finding.values, strict=False):
                    u = self.good[positions[row] if positions is not None else row]
                    self._warned.append(Warned(u.utterance_id, u.clip, finding.check.reason, value))
                continue
            place = column or str(finding.check.settings.get("column", finding.check.settings.get("column_A", "")))
            for row, value in zip(finding.rows, finding.values, strict=True):
                at = positions[row] if positions is not None else row
                failures.setdefault(at, (place, finding.check.reason, f"{value}, against: {finding.check.says}"))
        self.drop(failures)

    def leave_out(self, clips: Iterable[str]) -> None:
        """Note clips that no row mentions; they are no rows, so they do not count as dropped."""
        for clip in clips:
            detail = "no annotation row names this file"
            row = Quarantined(
                row_id=clip, source=clip, column="clip", reason="clip-unannotated", detail=detail, clip=clip
            )
            self.unannotated.append((row, fault_of(clip, self._faults) is not None))

    @property
    def warned(self) -> list[Warned]:
        """Return the warnings about rows that are still good, by reason and utterance id."""
        good = {u.utterance_id for u in self.good}
        return sorted(
            (w for w in self._warned if w.utterance_id in good), key=lambda w: (w.reason, w.utterance_id, w.measured)
        )

    @property
    def dropped(self) -> Counter[str]:
        """Return the number of rows set aside for each reason."""
        return Counter(row.reason for row, _ in self.set_aside)

    @property
    def share(self) -> float:
        """Return the share of rows set aside, 0..1."""
        return len(self.set_aside) / self.rows if self.rows else 0.0

    def quarantine(self) -> list[tuple[Quarantined, bool]]:
        """Return all that was set aside, ordered by row id, source and reason, so that the table has one form."""
        return sorted([*self.set_aside, *self.unannotated], key=lambda p: (p[0].row_id, p[0].source, p[0].reason))


class ClipFiles:
    """The files below one corpus root, listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = root.resolve()
        self._files: dict[str, str] = {}
        self._folders: list[str] = []
        for folder, folders, names in os.walk(root):
            folders.sort()
            self._folders += [(Path(folder) / name).relative_to(root).as_posix() for name in folders]
            for name in sorted(names):
                relative = (Path(folder) / name).relative_to(root).as_posix()
                self._files.setdefault(nfc(relative), relative)

    def find(self, clip: str) -> Path:
        """Return the path of a clip (relative, POSIX); raise ClipError when it is missing or leads out of the root."""
        pure = PurePosixPath(clip)
        if pure.is_absolute() or ".." in pure.parts:
            raise ClipError("clip-outside-root", f"{clip!r} is not a path inside the corpus", clip=clip)
        path = self.root / self._files.get(nfc(clip), clip)
        home = path.resolve()
        if not home.is_relative_to(self._home):
            detail = "a link leads out of the corpus; DVC's cache.type must be copy, reflink or hardlink"
            raise ClipError("clip-outside-root", detail, clip=clip)
        if not path.exists():
            raise ClipError("clip-missing", self.missing_detail(clip), clip=clip)
        if not path.is_file():
            raise ClipError("clip-unreadable", "not a regular file", clip=clip)
        return path

    def missing_detail(self, clip: str) -> str:
        """Return that a clip is missing, and which folder is, or which video has the same name and another format."""
        folder = PurePosixPath(clip).parent.as_posix()
        if same := self._by_stem.get(_stem(nfc(clip))):
            return f"no file {clip!r}, but {', '.join(map(repr, same))}: rename it if it is an MP4, else convert it"
        if folder not in (".", *self._folders):
            return f"no file {clip!r}: there is no folder {folder!r}"
        return f"no file {clip!r}"

    def links_outside(self) -> list[str]:
        """Return links that lead out of the root: folders, and all files but clips, of which each is its row's fault.

        What is read through them has no part in the corpus's digest, so no version of the corpus would hold it.
        """
        names = [name for name in self._files.values() if PurePosixPath(name).suffix.lower() not in VIDEO]
        links = [self.root / name for name in [*self._folders, *names] if (self.root / name).is_symlink()]
        return [str(link) for link in links if not link.resolve().is_relative_to(self._home)]

    def unmentioned_videos(self, mentioned: Set[str]) -> list[str]:
        """Return the video files (NFC, sorted) that are not among the ``mentioned`` clips (NFC)."""
        return [name for name in self._videos if name not in mentioned]

    @cached_property
    def _videos(self) -> list[str]:
        """Return the video files, without the resource forks that macOS adds beside them."""
        paths = map(PurePosixPath, sorted(self._files))
        return [
            path.as_posix()
            for path in paths
            if path.suffix.lower() in VIDEO and not path.name.startswith("._") and "__MACOSX" not in path.parts
        ]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        names: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._videos:
            names[_stem(name)].append(name)
        return dict(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()
