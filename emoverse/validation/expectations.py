"""Run Great Expectations over a table and say which rows failed what."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from emoverse.collector import uncollected

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
    """Return a check of one column, an error where it fails."""
    return Check(kind=kind, settings={"column": column, **settings}, reason=reason, says=says)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found: ``rows`` are positions in the table, ``values`` what stood there, in the same order."""

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

    Raises ValueError when an expectation could not be evaluated: that is a fault of the suite, not of the data.
    """
    gx, expectations = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    # Great Expectations returns results in an order of its own: the number in `meta` brings ours back.
    suite = gx.ExpectationSuite(
        name=name,
        expectations=[
            getattr(expectations, one.kind)(
                **one.settings,
                severity="critical" if one.severity == "error" else "warning",
                meta={"number": number, "reason": one.reason},
            )
            for number, one in enumerate(checks)
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
    return [_finding(name, one, item, len(table)) for one, item in zip(checks, results, strict=True)]


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
    with uncollected():
        import great_expectations as gx
        import great_expectations.expectations as expectations

    return gx, expectations
