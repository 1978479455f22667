"""Export a model to ONNX, and prove on real questions that it is the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.export.asking import frames_made, generation, prompts
from emoverse.export.card import model_card
from emoverse.export.gate import require
from emoverse.export.graphs import write_graphs
from emoverse.export.parity import compare
from emoverse.export.rows import asked_rows, made_up_rows
from emoverse.inference.encode import Encoder
from emoverse.inference.engine import Engine
from emoverse.inference.load import model_folder
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.inference.settings import settings_of_model
from emoverse.inference.testsets import Row
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.manifest import open_source, publish, write_json
from emoverse.media.frames import FrameStore
from emoverse.params import ExportParams, plain
from emoverse.steps import CODE


def export(
    model: Path,
    out: Path,
    params: ExportParams,
    *,
    amt: Path | None = None,
    validated: Sequence[Path] = (),
    scores: Path | None = None,
) -> None:
    """Write the model of a training step as three graphs at ``out``, with all that onnxruntime needs to answer.

    It is checked against torch on rows of ``amt``'s test sets, shown with the frames of ``validated``; without them on
    made-up rows. ``scores``, an output of evaluate, goes into the model card. Raises UserError when an input is unfit,
    a score is below ``params.floor`` or the graphs differ from the model by more than ``params.tolerance``; nothing is
    published then.
    """
    sources = {"model": open_source(model)}
    if amt is not None:
        sources["amt"] = open_source(amt, made_by="build-amt")
        if not validated:
            raise UserError("test rows need frames", place="--validated", remedy="give the outputs of validate")
    for folder in validated:
        source = open_source(folder, made_by="validate")
        sources[f"validated/{source.manifest['name']}"] = source
    if scores is not None:
        sources["scores"] = open_source(scores, made_by="evaluate")
    metrics = json.loads((scores / "metrics.json").read_text("utf-8")) if scores else None
    require(metrics, params.floor)
    seen = [source for name, source in sources.items() if name.startswith("validated/")]
    folder = model_folder(model)
    settings = settings_of_model(folder)
    libraries = ("onnx", "onnxruntime-gpu", "onnxscript", "tokenizers", "torch", "transformers")
    with publish(
        out, step="export", params=plain(params), inputs=sources, code=CODE["export"], libraries=libraries
    ) as draft:
        loaded = load_model(folder)
        # Parity asks the model as it was; the export may pin a rotary embedding, so it works on its own copy.
        known = write_graphs(load_model(folder), draft.path)
        how = {"media": frames_made(seen), "generation": generation(sources.get("scores"))}
        write_json(draft.path / SETTINGS, {"encoder": settings.as_json(), "decoder": known, **how})
        shutil.copyfile(folder / "tokenizer.json", draft.path / "tokenizer.json")
        rows, answers, frames = _questions(settings, amt, validated)
        reference = Engine(TorchBackend(loaded), Encoder(folder, settings), frames)
        candidate = onnx_engine(draft.path, frames, device="cpu")
        found = compare(reference, candidate, rows, answers)
        found.require(params.tolerance)
        write_json(draft.path / "parity.json", found.as_json(params.tolerance))
        write_json(draft.path / "prompts.json", prompts(rows, answers))
        card = model_card(sources["model"], settings, found, params.tolerance, metrics)
        (draft.path / "MODEL_CARD.md").write_text(card, "utf-8")
        draft.count(rows_in=len(rows), rows_out=len(rows))
        print(f"the same as torch within {found.largest_absolute:.1e} on {len(rows)} rows", flush=True)


def _questions(settings: Any, amt: Path | None, validated: Sequence[Path]) -> tuple[list[Row], Mapping[str, Any], Any]:
    if amt is None:
        rows, frames = made_up_rows(settings)
        return rows, {}, frames
    rows, answers = asked_rows(amt)
    return rows, answers, FrameStore(list(validated))
