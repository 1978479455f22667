"""Write MODEL_CARD.md: what an exported model is, what it was made from, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoverse.artifacts.manifest import Source
from emoverse.prompt.model_settings import Settings

_LICENCES = """\
## Licences of the data

MELD (GPL-3.0 annotations) and ECF 2.0 are cut from the television series *Friends*, whose pictures are copyrighted;
CMU-MOSEI's videos belong to their makers and are for research. Weights trained on them are for research, too. The
sample corpora of this repository are drawn by a program and free of such claims.
"""


def model_card(
    sources: Mapping[str, Source], settings: Settings, parity: Mapping[str, Any], scores: Mapping[str, Any] | None
) -> str:
    """Return the card as Markdown.

    Args:
        sources: The inputs of the export by name.
        settings: Settings of the exported model.
        parity: The report by precision.
        scores: Evaluate's metrics.json; None without an evaluation.
    """
    height, width = settings.size
    parts = [
        "# EmoVerse, exported\n",
        "Emotion and sentiment of a person in a short clip, from frames and words, as three ONNX graphs",
        "(`vision.onnx`, `embed.onnx`, `decoder.onnx`); it runs with onnxruntime, tokenizers and numpy alone.\n",
        f"Frames: {height} x {width} pixels, {settings.tokens_per_frame} tokens each.\n",
        "## Faithfulness\n",
        "Against torch in float32, on a CPU, on rows of the test sets; each number's tolerance in brackets.\n",
        *_parity(parity),
        "## Made from\n",
        "| step | digest | inputs |",
        "|---|---|---|",
        *_lineage(sources),
        "",
        *_scores(scores or {}),
        _LICENCES,
    ]
    return "\n".join(parts)


def _parity(parity: Mapping[str, Any]) -> list[str]:
    lines = [
        "| precision | bytes | logits, absolute | logits, relative | top 1 | greedy replies | answers | score |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in parity.items():
        limits = report["tolerance"]
        cells = [
            f"{report['bytes']:,}",
            f"{_rounded_up(report['largest_absolute'])} ({limits['absolute']:g})",
            f"{_rounded_up(report['largest_relative'])} ({limits['relative']:g})",
            f"{report['top1_agreement']:.3f} ({limits['top1']:g})",
            f"{report['greedy_equal']:.3f} ({limits['greedy']:g})",
            f"{report['answers_equal']:.3f} ({limits['answers']:g})",
            f"{report['score_difference']:.3f} ({limits['score']:g})",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _rounded_up(value: float) -> str:
    """Return a bound that is the same on every machine: a power of ten for tiny differences."""
    return next((f"< 1e-{n}" for n in range(9, 1, -1) if value < 10.0**-n), f"{value:.1e}")


def _lineage(sources: Mapping[str, Source]) -> list[str]:
    lines = []
    records = {digest: record for source in sources.values() for digest, record in source.ancestry.items()}
    for digest, record in sorted(records.items(), key=lambda item: (str(item[1].get("name")), item[0])):
        name = record.get("name") or record["step"]
        made_from = ", ".join(sorted(f"`{source[:12]}`" for source in record.get("inputs", {}).values()))
        if md5 := record.get("dvc_md5"):
            made_from = f"DVC `{md5}`"
        lines.append(f"| {record['step']} {name if name != record['step'] else ''} | `{digest[:12]}` | {made_from} |")
    return lines


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    tests = metrics.get("tests", {})
    if not tests:
        return []
    lines = ["## Scores\n", "| test set | n | score | 95 % interval | best baseline |", "|---|---|---|---|---|"]
    for name, scores in sorted(tests.items()):
        interval = f"{scores['low']:.3f} to {scores['high']:.3f}"
        best = max(scores["baseline"].values(), default=0.0)
        lines.append(f"| {name} | {scores['n']} | {scores['headline']:.3f} | {interval} | {best:.3f} |")
    return [*lines, ""]
