"""Write one self-contained page about all results."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from emoverse.artifacts.lineage import tree_of
from emoverse.artifacts.manifest import Source, open_source, open_validated, publish, require_same_model, write_json
from emoverse.artifacts.tables import write_csv
from emoverse.errors import UserError
from emoverse.report import charts, data, samples
from emoverse.report import scores as scored

NAMES = ("base", "stage1", "stage2")
CURVES = ("loss", "learning_rate")


def report(
    validated: Sequence[Path],
    amt: Path,
    stages: Sequence[Path],
    scores: Path,
    onnx: Path,
    out: Path,
    ablations: Path | None = None,
) -> None:
    """Publish ``index.html`` at ``out``, and what ``dvc metrics`` and ``dvc plots`` show.

    The tables are ``scores/<task>.json`` (headline, interval, baseline, controls), ``loss/<stage>.csv`` (step, loss,
    rate), ``confusion.csv`` (actual, predicted: emotions of all corpora), ``reliability.csv`` (confidence, accuracy
    and records of each bin) and ``classes.csv`` (F1 of each class with its interval). The page is one self-contained
    file that needs no network.

    Args:
        validated: Outputs of validate.
        amt: Output of build-amt.
        stages: The base model and both stages, or the base model and stage 2; copies without weights will do.
        scores: Output of evaluate.
        onnx: Output of export; a copy without weights will do.
        out: The folder to publish.
        ablations: Output of ablate, whose table the page then shows.

    Raises:
        UserError: An input is unfinished or the output of another step, or scores or graphs were made from a model
            other than the last stage's, or from other data.
    """
    names = NAMES if len(stages) == len(NAMES) else (NAMES[0], NAMES[-1])
    models = dict(zip(names, stages, strict=True))
    sources = _open_inputs(validated, amt, models, scores, onnx, ablations)
    corpora = [source for name, source in sources.items() if name.startswith("validated/")]
    ablated = json.loads((ablations / "ablations.json").read_text("utf-8")) if ablations else []
    with publish(out, step="report", params={}, inputs=sources) as draft:
        shown = samples.choose(scores, amt, [source.path for source in corpora])
        logs = {name: charts.read_log(sources[name].path) for name in names}
        page = render(
            headlines=scored.headlines(scores),
            tests=scored.test_sets(scores),
            published=json.loads((scores / "published.json").read_text("utf-8")),
            samples=shown,
            ablations=ablated,
            showcase=samples.showcase(shown),
            corpora=[data.corpus(source) for source in corpora],
            mixtures=data.mixtures(amt),
            audit=data.audit(amt),
            budgets=data.budgets(amt, sources["base"], corpora[0], {name: sources[name] for name in names[1:]}),
            amt_rows=sources["amt"].manifest["rows"],
            curves=[charts.curve(name, log, key) for key in CURVES for name, log in logs.items() if log],
            validation=data.validation({name: sources[name] for name in names[1:]}),
            models=[_model(name, sources[name]) for name in names],
            parity=json.loads((onnx / "parity.json").read_text("utf-8")),
            graph=charts.graph([tree_of(sources["scores"].manifest), tree_of(sources["onnx"].manifest)]),
            raw=tree_of(sources["scores"].manifest).raw,
            inputs=[(key, source) for key, source in sorted(sources.items())],
        )
        (draft.path / "index.html").write_text(page, "utf-8", newline="\n")
        _write_tables(draft.path, scores, logs)


def _open_inputs(
    validated: Sequence[Path], amt: Path, models: Mapping[str, Path], scores: Path, onnx: Path, ablations: Path | None
) -> dict[str, Source]:
    """Open all inputs by name, the corpora first; raise UserError where they do not belong together.

    ``models`` are the base model and the stages by name, the last one scored and exported.
    """
    sources = dict(sorted(open_validated(validated).items()))
    sources["amt"] = open_source(amt, made_by="build-amt")
    for name, folder in models.items():
        sources[name] = open_source(folder, made_by="" if name == "base" else "train", weights=False)
    sources["scores"] = open_source(scores, made_by="evaluate")
    sources["onnx"] = open_source(onnx, made_by="export", weights=False)
    if ablations is not None:
        sources["ablations"] = open_source(ablations, made_by="ablate")
        _require_same_data(sources, "ablations")
    for name in ("scores", "onnx"):
        require_same_model(sources[list(models)[-1]], sources[name])
        _require_same_data(sources, name)
    return sources


def _require_same_data(sources: Mapping[str, Source], name: str) -> None:
    """Raise UserError if an input was made from an AMT, corpus or scores other than those on the page."""
    for key, digest in sources[name].manifest["inputs"].items():
        if key in sources and sources[key].digest != digest:
            problem, place = f"it was made from a different {key} than {sources[key].path}", str(sources[name].path)
            raise UserError(problem, place=place, remedy="run the step again, or give the folder that it was made from")


def render(**context: Any) -> str:
    """Fill the template; every value is escaped, and the page's policy allows only our own style and script."""
    folder = resources.files("emoverse.report")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["named"] = _named
    environment.filters["shares"] = _shares
    environment.filters["initials"] = lambda task: task.upper().replace("_", " ")
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.jinja").render(style=style, script=script, script_sha=sha, **context)


def _named(key: str) -> str:
    """Return the readable form of a score's name: ``authors_weighted_f1`` is ``authors weighted F1``."""
    return key.replace("_", " ").replace("f1", "F1").replace("rouge l", "ROUGE-L")


def _shares(pairs: Mapping[str, float], head: str) -> list[tuple[str, str]]:
    """Return scores in percent, as everywhere on the page, and numbers above 1 (counts) as they are."""
    return [(head + key, f"{value:,.0f}" if value > 1 else f"{100 * value:.1f} %") for key, value in pairs.items()]


def _model(name: str, source: Source) -> dict[str, Any]:
    manifest = source.manifest
    facts = {**{f"parameter {k}": v for k, v in manifest["params"].items()}, **manifest["facts"]}
    return {"name": name, "digest": source.digest, "rows": manifest["rows"], "facts": data.flatten(facts)}


def _write_tables(folder: Path, scores: Path, logs: dict[str, list[dict[str, float]]]) -> None:
    for name in ("scores", "loss"):
        (folder / name).mkdir()
    for head in scored.headlines(scores):
        numbers = {"score": head.value, "low": head.low, "high": head.high, "baseline": head.baseline, **head.controls}
        write_json(folder / "scores" / f"{head.task}.json", {**numbers, "metric": head.metric, "questions": head.n})
    keys: tuple[str, ...] = ("step", *CURVES)
    for name, log in logs.items():
        if log:
            write_csv(folder / "loss" / f"{name}.csv", keys, [[entry[key] for key in keys] for entry in log])
    labels, counts = scored.confusion_over(scores)
    cells = ((a, p, counts[i][j]) for i, a in enumerate(labels) for j, p in enumerate(labels))
    pairs = ((a.rstrip("."), p.rstrip(".")) for a, p, count in cells for _ in range(count))
    write_csv(folder / "confusion.csv", ("actual", "predicted"), pairs)
    tests = scored.test_sets(scores)
    keys = ("confidence", "accuracy", "n")
    bins = [(test.name, *(row[key] for key in keys)) for test in tests for row in test.reliability]
    write_csv(folder / "reliability.csv", ("test", *keys), bins)
    rows = ((test.name, row) for test in tests for row in test.classes)
    classes = ((name, f"{name} {row['class']}", row["f1"], row["low"], row["high"]) for name, row in rows)
    write_csv(folder / "classes.csv", ("test", "class", "f1", "low", "high"), classes)
