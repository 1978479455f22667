"""The step ``export``: write a model as ONNX and check on test questions that the graphs answer as torch does."""

from __future__ import annotations

import json
import math
import shutil
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

from emoverse.artifacts.manifest import Source, open_source, open_validated, publish, require_same_model, write_json
from emoverse.config import ExportParams, Precision, plain
from emoverse.errors import UserError, did_you_mean
from emoverse.export.graphs import check_precisions, precision_folders, write_all
from emoverse.export.parity import (
    compare,
    generation_settings,
    media_settings,
    prompt_templates,
    replies,
    sample_rows,
    sampled_sets,
    synthetic_rows,
)
from emoverse.inference.engine import Engine, model_folder
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, Settings, settings_of_model

FRAMES: Final = 8  # of a synthetic row at most
# Bytes of a weight in a session. onnxruntime's CPU kernels compute float16 in float32 and keep converted weights.
SESSION_BYTES: Final[dict[Precision, float]] = {"fp32": 4.0, "fp16": 4.0, "int8": 1.2, "int4": 0.8}
FP32_BYTES: Final = 4
LIBRARY_BYTES: Final = 1 << 30  # that torch, transformers and onnxruntime take by themselves
_LICENCES = """\
## Licences of the data

MELD (GPL-3.0 annotations) and ECF 2.0 are cut from the television series *Friends*, whose pictures are copyrighted;
CMU-MOSEI's videos belong to their makers and are for research. Weights trained on them are for research, too. The
sample corpora of this repository are drawn by a program and free of such claims.
"""


def export(
    model: Path,
    out: Path,
    params: ExportParams,
    *,
    amt: Path | None = None,
    validated: Sequence[Path] = (),
    scores: Path | None = None,
) -> None:
    """Write the model of a training step as three ONNX graphs, with all that onnxruntime needs to answer.

    Args:
        model: Output of train or base-model.
        out: Folder to publish.
        params: Section ``export``.
        amt: Output of build-amt whose test sets the graphs are compared on; None compares on synthetic rows.
        validated: Outputs of validate with the frames of the test sets.
        scores: Output of evaluate, for the model card and ``params.floor``.

    Raises:
        UserError: An input is unfit, a score is below ``params.floor``, or the graphs of a precision differ from the
            model by more than their tolerance. Nothing is published then.
    """
    check_precisions(params)
    sources = {"model": open_source(model)}
    if amt is not None:
        sources["amt"] = open_source(amt, made_by="build-amt")
        if not validated:
            raise UserError("test rows need frames", place="--validated", remedy="give the outputs of validate")
    sources |= open_validated(validated)
    metrics = None
    if scores is not None:
        sources["scores"] = open_source(scores, made_by="evaluate")
        require_same_model(sources["model"], sources["scores"])
        metrics = json.loads((scores / "metrics.json").read_text("utf-8"))
    require_floor(scores_for_floor(model, metrics), params.floor)
    media = media_settings([source for name, source in sources.items() if name.startswith("validated/")])
    generation = generation_settings(sources.get("scores"))
    folder = model_folder(model)
    settings = settings_of_model(folder)
    questions = _questions(settings, amt, validated, params.compared)
    limit = generation["max_new_tokens"]
    require_memory(folder, params, _longest_prompt(folder, settings, questions, media) + limit)
    with publish(out, step="export", params=plain(params), inputs=sources) as draft:
        decoder = write_all(folder, draft.path, params)
        entries = {"encoder": settings.as_json(), "decoder": decoder, "precision": list(params.precision)}
        write_json(draft.path / SETTINGS, {**entries, "media": media, "generation": generation})
        shutil.copyfile(folder / "tokenizer.json", draft.path / "tokenizer.json")
        parity = _check_parity(draft.path, folder, questions, params, limit)
        write_json(draft.path / "parity.json", parity)
        answers = {str(row["channel"]): item.answers for item in questions.sets for row in item.rows if item.answers}
        write_json(draft.path / "prompts.json", prompt_templates(questions.rows, answers))
        card = model_card(sources, settings, parity, metrics)
        (draft.path / "MODEL_CARD.md").write_text(card, "utf-8")
        draft.count(rows_in=len(questions.rows), rows_out=len(questions.rows))


@dataclass(frozen=True)
class _Questions:
    """The rows whose logits are compared, the test sets that are answered, and the frames of both."""

    rows: list[AmtRow]
    sets: list[EvaluationSet]
    frames: Any


def _questions(settings: Settings, amt: Path | None, validated: Sequence[Path], limit: int) -> _Questions:
    if amt is None:
        rows, frames = synthetic_rows(settings)
        return _Questions(rows, [], frames)
    sets = sampled_sets(amt, limit)
    return _Questions(sample_rows(sets), sets, FrameStore(list(validated)))


def _longest_prompt(model: Path, settings: Settings, questions: _Questions, media: Mapping[str, Any] | None) -> int:
    """Return the tokens of the longest prompt."""
    rows = [*questions.rows, *(row for item in questions.sets for row in item.rows)]
    frames = [int(media["frames"]) if media and row.get("videos") else FRAMES for row in rows]
    return max(len(ids) for ids in Encoder(model, settings).prompt_ids(rows, frames))


def _check_parity(
    out: Path, model: Path, questions: _Questions, params: ExportParams, max_new_tokens: int
) -> dict[str, Any]:
    """Return the parity report by precision; raise UserError when a precision is outside its tolerance."""
    torch.set_num_threads(params.threads)
    encoder, batch = Encoder(model, settings_of_model(model)), params.batch_size
    reference = Engine(TorchBackend(load_model(model)), encoder, questions.frames, batch_size=batch)
    expected = replies(reference, questions.sets, max_new_tokens)
    report: dict[str, Any] = {}
    for precision, folder in precision_folders(out, params.precision).items():
        candidate = onnx_engine(
            out, questions.frames, batch_size=batch, device="cpu", precision=precision, threads=params.threads
        )
        actual = replies(candidate, questions.sets, max_new_tokens)
        parity = compare(reference, candidate, questions.rows, questions.sets, (expected, actual))
        tolerance = params.tolerance[precision]
        parity.require(tolerance, precision)
        size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
        report[precision] = {**parity.as_json(tolerance), "bytes": size}
        print(f"{precision}: equal to torch within {parity.largest_absolute:.1e} on {parity.rows} rows", flush=True)
    return report


def scores_for_floor(model: Path, metrics: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the scores by task that ``export.floor`` applies to.

    These are the validation scores of the model's stage where it has some, so that the test set chooses nothing; else
    evaluate's ``metrics``.
    """
    path = model / "validation.json"
    if path.is_file():
        return dict(json.loads(path.read_text("utf-8"))["tasks"])
    return metrics


def require_floor(metrics: Mapping[str, Any] | None, floor: Mapping[str, Mapping[str, float]]) -> None:
    """Raise UserError naming every score that is below its floor, missing or not a number.

    Args:
        metrics: Scores by task, as in evaluate's metrics.json.
        floor: The lowest value that passes, by task and score.
    """
    place = "export.floor"
    if floor and metrics is None:
        raise UserError("there are no scores to compare with it", place=place, remedy="give --scores, or remove it")
    low = []
    for task, minimums in floor.items():
        scored_tasks = {name: value for name, value in (metrics or {}).items() if name != "tests"}
        if task not in scored_tasks:
            raise UserError(f"no scores of task {task!r}", place=place, remedy=did_you_mean(task, scored_tasks))
        numbers = {key: value for key, value in scored_tasks[task].items() if isinstance(value, int | float)}
        for metric, minimum in minimums.items():
            if metric not in numbers:
                raise UserError(f"{task} has no score {metric!r}", place=place, remedy=did_you_mean(metric, numbers))
            if not numbers[metric] >= minimum:  # so that NaN fails
                low.append(f"{task} {metric} is {numbers[metric]:.4f}, below {minimum:g}")
    if low:
        remedy = "train a better model, or lower export.floor in params.yaml"
        raise UserError("; ".join(low), place=place, remedy=remedy)


def memory_needed(model: Path, params: ExportParams, tokens: int, batch_size: int | None = None) -> int:
    """Return the bytes that an export needs at its peak.

    Graphs are written from float32 weights, of which the exporter keeps a copy. The comparison has torch's float32
    model and a session in memory, and the KV cache of a batch twice: appending to it makes a copy.

    Args:
        model: The model folder.
        params: Section ``export``.
        tokens: Length of the longest prompt and its reply.
        batch_size: Rows compared at a time, None for ``params.batch_size``.
    """
    rows = params.batch_size if batch_size is None else batch_size
    weights = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            weights += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    text = json.loads((model / "config.json").read_text("utf-8"))["text_config"]
    heads = int(text["num_attention_heads"])
    head = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    cache = (
        2 * int(text["num_hidden_layers"]) * int(text.get("num_key_value_heads") or heads) * head * FP32_BYTES * tokens
    )
    scores = heads * tokens * tokens * FP32_BYTES  # attention of one layer
    batch = rows * (2 * cache + scores + int(text["vocab_size"]) * FP32_BYTES)
    session = max(SESSION_BYTES[precision] for precision in params.precision)
    return int(max(2 * weights * FP32_BYTES, weights * (FP32_BYTES + session) + batch)) + LIBRARY_BYTES


def memory_available() -> int:
    """Return the bytes of memory that this process may still take: the machine's, or what its cgroup allows."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    sizes = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text("utf-8").strip()) != "max":
        return min(sizes["MemAvailable"], int(text) - int(used.read_text("utf-8")))
    return sizes["MemAvailable"]


def require_memory(model: Path, params: ExportParams, tokens: int, available: int | None = None) -> None:
    """Raise UserError, with the remedy, if an export does not fit into memory.

    Args:
        model: The model folder.
        params: Section ``export``.
        tokens: Length of the longest prompt and its reply.
        available: Bytes of memory; None asks the system.
    """
    available = memory_available() if available is None else available
    needed = memory_needed(model, params, tokens)
    if needed <= available:
        return
    sizes = range(1, params.batch_size)
    fitting = bisect_right(sizes, available, key=lambda size: memory_needed(model, params, tokens, size))
    remedy = f"set export.batch_size to {fitting}"
    if not fitting:
        remedy = f"export on a machine with {_gib(needed)} of free memory"
    problem = f"{', '.join(params.precision)} needs about {_gib(needed)} of memory, {_gib(available)} are available"
    raise UserError(problem, place="export", remedy=remedy)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


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
        *_card_parity(parity),
        "## Made from\n",
        "| step | digest | inputs |",
        "|---|---|---|",
        *_card_lineage(sources),
        "",
        *_card_scores(scores or {}),
        _LICENCES,
    ]
    return "\n".join(parts)


def _card_parity(parity: Mapping[str, Any]) -> list[str]:
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


def _card_lineage(sources: Mapping[str, Source]) -> list[str]:
    lines = []
    records = {digest: record for source in sources.values() for digest, record in source.ancestry.items()}
    for digest, record in sorted(records.items(), key=lambda item: (str(item[1].get("name")), item[0])):
        name = record.get("name") or record["step"]
        made_from = ", ".join(sorted(f"`{source[:12]}`" for source in record.get("inputs", {}).values()))
        if md5 := record.get("dvc_md5"):
            made_from = f"DVC `{md5}`"
        lines.append(f"| {record['step']} {name if name != record['step'] else ''} | `{digest[:12]}` | {made_from} |")
    return lines


def _card_scores(metrics: Mapping[str, Any]) -> list[str]:
    tests = metrics.get("tests", {})
    if not tests:
        return []
    lines = ["## Scores\n", "| test set | n | score | 95 % interval | best baseline |", "|---|---|---|---|---|"]
    for name, scores in sorted(tests.items()):
        interval = f"{scores['low']:.3f} to {scores['high']:.3f}"
        best = max(scores["baseline"].values(), default=0.0)
        lines.append(f"| {name} | {scores['n']} | {scores['headline']:.3f} | {interval} | {best:.3f} |")
    return [*lines, ""]
