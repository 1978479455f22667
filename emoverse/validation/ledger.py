"""Keep account of every annotated row: it passes, or it is set aside once, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from emoverse.corpora.base import Quarantined, Reading
from emoverse.media.locate import nfc
from emoverse.validation.expectations import Finding
from emoverse.validation.known import KnownFault, fault_of


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

        The first expectation a row fails gives the reason; warnings set nothing aside.
        """
        failures: dict[int, tuple[str, str, str]] = {}
        for finding in findings:
            if finding.check.severity == "warning":
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
