"""Write MODEL_CARD.md: what an exported model is, what it was made from, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoverse.export.parity import Parity
from emoverse.inference.settings import Settings
from emoverse.manifest import Source

_LICENCES = """\
## Licences of the data

MELD (GPL-3.0 annotations) and ECF 2.0 are cut from the television series *Friends*, whose pictures are copyrighted;
CMU-MOSEI's videos belong to their makers and are for research. Weights trained on them are for research, too. The
sample corpora of this repository are drawn by a program and free of such claims.
"""


def model_card(
    source: Source, settings: Settings, parity: Parity, tolerance: float, scores: Mapping[str, Any] | None
) -> str:
    """Return the card as Markdown; ``scores`` is evaluate's metrics.json where there is one."""
    height, width = settings.size
    parts = [
        "# EmoVerse, exported\n",
        "Emotion and sentiment of a person in a short clip, from frames and words, as three ONNX graphs",
        "(`vision.onnx`, `embed.onnx`, `decoder.onnx`); it runs with onnxruntime, tokenizers and numpy alone.\n",
        f"Frames: {height} x {width} pixels, {settings.tokens_per_frame} tokens each. Precision: fp32.\n",
        "## Faithfulness\n",
        f"Against torch on {parity.rows} rows: largest logit difference below {_rounded_up(parity.largest_absolute)}"
        f" (tolerance {tolerance:g}), equal greedy replies {parity.greedy_equal:.3f}.\n",
        "## Made from\n",
        "| step | digest | inputs |",
        "|---|---|---|",
        *_lineage(source),
        "",
        *_scores(scores or {}),
        _LICENCES,
    ]
    return "\n".join(parts)


def _rounded_up(value: float) -> str:
    return next((f"1e-{n}" for n in range(9, 0, -1) if value < 10.0**-n), f"{value:.1e}")


def _lineage(source: Source) -> list[str]:
    lines = []
    for digest, record in sorted(source.ancestry.items(), key=lambda item: (str(item[1].get("name")), item[0])):
        name = record.get("name") or record["step"]
        made_from = ", ".join(sorted(f"`{one[:12]}`" for one in record.get("inputs", {}).values()))
        if md5 := record.get("dvc_md5"):
            made_from = f"DVC `{md5}`"
        lines.append(f"| {record['step']} {name if name != record['step'] else ''} | `{digest[:12]}` | {made_from} |")
    return lines


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    tests = metrics.get("tests", {})
    if not tests:
        return []
    lines = ["## Scores\n", "| test set | n | score | 95 % interval | best baseline |", "|---|---|---|---|---|"]
    for name, one in sorted(tests.items()):
        best = max(one["baseline"].values(), default=0.0)
        lines.append(
            f"| {name} | {one['n']} | {one['headline']:.3f} | {one['low']:.3f} to {one['high']:.3f} | {best:.3f} |"
        )
    return [*lines, ""]
