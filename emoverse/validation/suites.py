"""What is expected of annotations and of clips.

A suite names no corpus: a label that a corpus does not have is absent, and an absent value meets every expectation but
the ones that ask for it. So a new corpus needs no suite of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pandas as pd

from emoverse.corpora.base import EMOTIONS, SPLITS, Utterance
from emoverse.media.probe import Probe
from emoverse.params import ValidationParams
from emoverse.validation.expectations import BETWEEN, NOT_NULL, REGEX, SET, UNIQUE, Check, Finding, check, run_suite

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
    )


def check_annotations(utterances: Iterable[Utterance]) -> list[Finding]:
    """Check the annotation columns of utterances; a finding's rows are positions in their order."""
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
    return run_suite("annotations", ANNOTATIONS, table)


def check_probes(probes: Iterable[tuple[Probe, float | None]], params: ValidationParams) -> list[Finding]:
    """Check (probe, duration gap in seconds) pairs; a finding's rows are positions in their order."""
    names = ("frames", "duration", "fps", "width", "height", "has_audio")
    rows = [{**{name: getattr(probe, name) for name in names}, "duration_gap": gap} for probe, gap in probes]
    table = pd.DataFrame(rows, columns=[*names, "duration_gap"])
    return run_suite("clips", probe_checks(params), _typed(table, text=["has_audio"]))


def _typed(table: pd.DataFrame, *, text: list[str]) -> pd.DataFrame:
    """Give each column one type, also where all its values are absent."""
    for name in table.columns:
        table[name] = table[name].astype(object) if name in text else pd.to_numeric(table[name]).astype(float)
    return table.where(table.notna(), None) if text else table
