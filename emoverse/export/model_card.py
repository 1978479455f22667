"""Write MODEL_CARD.md: what an exported model is, what it was made from, and what it is worth."""

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
    """Return the card as Markdown; ``parity`` is the report by precision, ``scores`` evaluate's metrics.json."""
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
    for name, one in parity.items():
        most = one["tolerance"]
        cells = [
            f"{one['bytes']:,}",
            f"{_rounded_up(one['largest_absolute'])} ({most['absolute']:g})",
            f"{_rounded_up(one['largest_relative'])} ({most['relative']:g})",
            f"{one['top1_agreement']:.3f} ({most['top1']:g})",
            f"{one['greedy_equal']:.3f} ({most['greedy']:g})",
            f"{one['answers_equal']:.3f} ({most['answers']:g})",
            f"{one['score_difference']:.3f} ({most['score']:g})",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _rounded_up(value: float) -> str:
    """Return a bound that does not change with the machine: a power of ten for tiny differences."""
    return next((f"< 1e-{n}" for n in range(9, 1, -1) if value < 10.0**-n), f"{value:.1e}")


def _lineage(sources: Mapping[str, Source]) -> list[str]:
    lines = []
    every = {digest: record for source in sources.values() for digest, record in source.ancestry.items()}
    for digest, record in sorted(every.items(), key=lambda item: (str(item[1].get("name")), item[0])):
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
