"""Check tables of utterances and AMT rows with Great Expectations."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from emoverse.config import ValidationParams
from emoverse.corpora import EMOTIONS, SPLITS, Utterance
from emoverse.media.probe import Probe

SHOWN: Final = 8  # different failing values kept for the page
SET, BETWEEN, REGEX = (
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToMatchRegex",
)
NOT_NULL, UNIQUE = "ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeUnique"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation: ``kind`` is a class of Great Expectations, ``reason`` the quarantine code of a row that fails.

    ``says`` is the sentence for the page. An ``error`` quarantines the row, a ``warning`` is counted and shown.
    """

    kind: str
    settings: Mapping[str, Any]
    reason: str
    says: str
    severity: Literal["error", "warning"] = "error"


def check(kind: str, column: str, reason: str, says: str, **settings: Any) -> Check:
    """Return a check of one column, an error where it fails.

    Args:
        kind: A class of Great Expectations.
        column: The column.
        reason: Quarantine code of a row that fails.
        says: The expectation as a sentence for the page.
        **settings: Further arguments of the class.
    """
    return Check(kind=kind, settings={"column": column, **settings}, reason=reason, says=says)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found: ``rows`` are positions in the table, ``values`` are their values, in the same order."""

    suite: str
    check: Check
    success: bool
    checked: int
    rows: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    @property
    def expectation(self) -> str:
        """Return Great Expectations' name of the check, with its column."""
        columns = [str(v) for k, v in self.check.settings.items() if k.startswith("column")]
        return f"{_snake(self.check.kind)}({', '.join(columns)})"

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON-like values for summary.json and the page."""
        return {
            "suite": self.suite,
            "expectation": self.expectation,
            "reason": self.check.reason,
            "says": self.check.says,
            "severity": self.check.severity,
            "success": self.success,
            "checked": self.checked,
            "failed": len(self.rows),
            "examples": list(dict.fromkeys(self.values))[:SHOWN],
        }


def run_suite(name: str, checks: Sequence[Check], table: pd.DataFrame) -> list[Finding]:
    """Validate a table in an ephemeral context; return one finding for each check, in their order.

    Raises:
        ValueError: An expectation could not be evaluated: a fault of the suite, not of the data.
    """
    gx, expectations = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    # Great Expectations returns results in an order of its own: the number in `meta` brings ours back.
    suite = gx.ExpectationSuite(
        name=name,
        expectations=[
            getattr(expectations, declared.kind)(
                **declared.settings,
                severity="critical" if declared.severity == "error" else "warning",
                meta={"number": number, "reason": declared.reason},
            )
            for number, declared in enumerate(checks)
        ],
    )
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        {"dataframe": table.assign(row=range(len(table)))}
    )
    fmt = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas' deprecations inside Great Expectations
        results = [item.to_json_dict() for item in batch.validate(suite, result_format=fmt).results]
    results.sort(key=lambda item: int(item["expectation_config"]["meta"]["number"]))
    return [_finding(name, declared, item, len(table)) for declared, item in zip(checks, results, strict=True)]


def _finding(suite: str, check: Check, item: Mapping[str, Any], rows: int) -> Finding:
    result: Mapping[str, Any] = item.get("result") or {}
    trouble = item.get("exception_info") or {}
    if not item["success"] and not result:
        raise ValueError(f"suite {suite!r}: {check.kind} {dict(check.settings)} could not be evaluated: {trouble}")
    bad = sorted(result.get("unexpected_index_list") or [], key=lambda entry: int(entry["row"]))
    values = [", ".join(f"{k}={v!r}" for k, v in sorted(_plain(entry).items())) for entry in bad]
    if not item["success"] and not bad:
        values = [str(result.get("observed_value"))]
    checked = int(result.get("element_count") or rows)
    kept = [int(entry["row"]) for entry in bad]
    return Finding(suite=suite, check=check, success=bool(item["success"]), checked=checked, rows=kept, values=values)


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = {k: v for k, v in entry.items() if k != "row"}
    return {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}


def _snake(name: str) -> str:
    return (
        "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
        .lstrip("_")
        .replace("_a_to_", "_A_to_")
        .replace("_than_b", "_than_B")
    )


def _great_expectations() -> tuple[Any, Any]:
    """Import Great Expectations, silent and without its usage reports; it takes two seconds."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations as gx
    import great_expectations.expectations as expectations

    return gx, expectations


ANNOTATIONS: Final = (
    Check(
        kind="ExpectTableRowCountToBeBetween",
        settings={"min_value": 1},
        reason="no-rows",
        says="There is at least one row.",
    ),
    check(UNIQUE, "utterance_id", "duplicate-id", "Every utterance has an id of its own."),
    check(SET, "split", "bad-split", "The split is train, validation or test.", value_set=list(SPLITS)),
    check(REGEX, "text", "blank-text", "Something is said.", regex=r"\S"),
    check(SET, "emotion", "bad-label", "An emotion is one of MELD's seven.", value_set=list(EMOTIONS)),
    check(
        SET,
        "polarity",
        "bad-label",
        "A polarity is negative, neutral or positive.",
        value_set=["negative", "neutral", "positive"],
    ),
    check(
        BETWEEN, "sentiment", "sentiment-out-of-range", "A sentiment lies in [-3, 3].", min_value=-3.0, max_value=3.0
    ),
    check(
        BETWEEN,
        "intensity",
        "intensity-out-of-range",
        "Emotion intensities lie in [0, 3].",
        min_value=0.0,
        max_value=3.0,
    ),
    check(BETWEEN, "smallest_intensity", "intensity-out-of-range", "No emotion intensity is negative.", min_value=0.0),
    check(NOT_NULL, "label", "no-label", "Every row has an emotion, a polarity or a sentiment."),
    Check(
        kind="ExpectColumnPairValuesAToBeGreaterThanB",
        settings={"column_A": "end", "column_B": "start", "or_equal": True, "ignore_row_if": "either_value_is_missing"},
        reason="span-backwards",
        says="A span does not end before it starts.",
    ),
    Check(
        kind="ExpectColumnDistinctValuesToContainSet",
        settings={"column": "split", "value_set": list(SPLITS)},
        reason="empty-split",
        says="Train, validation and test all have rows.",
        severity="warning",
    ),
)


def _annotation_checks(emotions: Sequence[str]) -> tuple[Check, ...]:
    """Return the expectations of the annotations of a corpus with these labels."""
    if tuple(emotions) == EMOTIONS:
        return ANNOTATIONS
    own = check(SET, "emotion", "bad-label", f"An emotion is one of {', '.join(emotions)}.", value_set=list(emotions))
    return tuple(own if known.settings.get("column") == "emotion" else known for known in ANNOTATIONS)


MOSTLY: Final = 0.5  # the share of a clip's chosen frames from which it is called black or frozen


def _warn(kind: str, column: str, reason: str, says: str, **settings: Any) -> Check:
    return Check(kind=kind, settings={"column": column, **settings}, reason=reason, says=says, severity="warning")


CONTENT: Final = (
    _warn(
        BETWEEN,
        "black",
        "clip-black",
        "Less than half of a clip's chosen frames are black.",
        max_value=MOSTLY,
        strict_max=True,
    ),
    _warn(
        BETWEEN,
        "frozen",
        "clip-frozen",
        "Less than half of a clip's chosen frames equal the one before.",
        max_value=MOSTLY,
        strict_max=True,
    ),
    _warn(SET, "silent", "clip-silent", "A sound track is not silent throughout.", value_set=[False]),
    _warn(SET, "hdr", "clip-hdr", "Pictures have no high dynamic range (it is not tone-mapped).", value_set=[False]),
)


def probe_checks(params: ValidationParams) -> tuple[Check, ...]:
    """Return the expectations of the probe table, with the thresholds of params.yaml."""
    low, high, gap = params.min_duration, params.max_duration, params.max_duration_gap
    slow, fast, small, large = params.min_fps, params.max_fps, params.min_side, params.max_side
    rate, sides = {"min_value": slow, "max_value": fast}, {"min_value": small, "max_value": large}
    return (
        check(BETWEEN, "frames", "clip-empty", "A clip has frames.", min_value=1),
        check(BETWEEN, "duration", "clip-too-short", f"A clip lasts at least {low:g} s.", min_value=low),
        check(BETWEEN, "duration", "clip-too-long", f"A clip lasts at most {high:g} s.", max_value=high),
        check(BETWEEN, "fps", "bad-frame-rate", f"The mean frame rate lies in [{slow:g}, {fast:g}].", **rate),
        check(BETWEEN, "width", "bad-size", f"The picture is {small} to {large} pixels wide.", **sides),
        check(BETWEEN, "height", "bad-size", f"The picture is {small} to {large} pixels high.", **sides),
        Check(
            kind=BETWEEN,
            settings={"column": "duration_gap", "max_value": gap},
            reason="duration-gap",
            severity="warning",
            says=f"A clip is as long as its annotated span, within {gap:g} s.",
        ),
        Check(
            kind=SET,
            settings={"column": "has_audio", "value_set": [True]},
            reason="no-audio",
            severity="warning",
            says="A clip has sound (no step needs it).",
        ),
        *CONTENT,
    )


def check_annotations(utterances: Iterable[Utterance], emotions: Sequence[str] = EMOTIONS) -> list[Finding]:
    """Check the annotation columns of utterances; a finding's rows are positions in their order.

    ``emotions`` are the labels of the corpus.
    """
    rows = []
    for u in utterances:
        label = u.emotion or u.polarity or (None if u.sentiment is None else "sentiment")
        rows.append(
            {
                "utterance_id": u.utterance_id,
                "split": u.split,
                "text": u.text,
                "emotion": u.emotion,
                "polarity": u.polarity,
                "sentiment": u.sentiment,
                "start": u.start,
                "end": u.end,
                "label": label,
                "intensity": max(u.intensities) if u.intensities else None,
                "smallest_intensity": min(u.intensities) if u.intensities else None,
            }
        )
    columns = ["utterance_id", "split", "text", "emotion", "polarity", "sentiment", "start", "end", "label"]
    table = _typed(
        pd.DataFrame(rows, columns=[*columns, "intensity", "smallest_intensity"]), text=[*columns[:5], "label"]
    )
    return run_suite("annotations", _annotation_checks(emotions), table)


def check_probes(probes: Iterable[tuple[Probe, float | None]], params: ValidationParams) -> list[Finding]:
    """Check (probe, duration gap in seconds) pairs; a finding's rows are positions in their order."""
    names = ("frames", "duration", "fps", "width", "height", "has_audio", "black", "frozen", "silent", "hdr")
    rows = [{**{name: getattr(probe, name) for name in names}, "duration_gap": gap} for probe, gap in probes]
    table = pd.DataFrame(rows, columns=[*names, "duration_gap"])
    return run_suite("clips", probe_checks(params), _typed(table, text=["has_audio", "silent", "hdr"]))


def _typed(table: pd.DataFrame, *, text: list[str]) -> pd.DataFrame:
    """Give each column one type, also where all its values are absent."""
    for name in table.columns:
        table[name] = table[name].astype(object) if name in text else pd.to_numeric(table[name]).astype(float)
    return table.where(table.notna(), None) if text else table
