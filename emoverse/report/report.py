"""The step ``report``: write one self-contained page about all results."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2

from emoverse.artifacts.lineage import tree_of
from emoverse.artifacts.manifest import Source, open_source, open_validated, publish, require_same_model, write_json
from emoverse.artifacts.tables import read_table, write_csv
from emoverse.budget import Budget, stage_budgets
from emoverse.corpora import EMOTIONS, SPLITS
from emoverse.errors import UserError
from emoverse.report import charts, samples
from emoverse.report import scores as scored

NAMES = ("base", "stage1", "stage2")
CURVES = ("loss", "learning_rate")
SHOWN: Final = 40  # quarantined rows listed of one corpus
STAGES: Final = ("stage1", "stage2")


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
            corpora=[corpus_summary(source) for source in corpora],
            mixtures=read_mixtures(amt),
            audit=read_audit(amt),
            budgets=token_budgets(amt, sources["base"], corpora[0], {name: sources[name] for name in names[1:]}),
            amt_rows=sources["amt"].manifest["rows"],
            curves=[charts.curve(name, log, key) for key in CURVES for name, log in logs.items() if log],
            validation=validation_scores({name: sources[name] for name in names[1:]}),
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
    return {"name": name, "digest": source.digest, "rows": manifest["rows"], "facts": flatten(facts)}


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


@dataclass(frozen=True)
class Corpus:
    """One validated corpus: rows in and out, utterances by split and emotion, quarantined rows by reason."""

    name: str
    rows_in: int
    rows_out: int
    splits: dict[str, int]
    emotions: dict[str, int]
    reasons: dict[str, int]
    quarantined: list[dict[str, Any]]
    hidden: int
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Mixture:
    """The row counts of one file of AMT, by task and corpus: ``cells[task][corpus]``."""

    name: str
    cells: dict[str, dict[str, int]]
    total: int


@dataclass(frozen=True)
class Validation:
    """A stage's scores on its validation sets, which choose checkpoints; the test sets choose nothing.

    Attributes:
        select: ``train.select``: which checkpoint is published.
        selected: The step of the published checkpoint.
        loss: Nats a token of the answers.
        score: Mean of the sets' headline scores.
        sets: (records, headline score) of each whole validation set.
        steps: ``step``, ``loss`` and ``score`` of each checkpoint, on ``validation_rows`` of each set.
    """

    stage: str
    select: str
    selected: int
    loss: float
    score: float
    sets: dict[str, tuple[int, float]]
    steps: list[dict[str, Any]]


def corpus_summary(source: Source) -> Corpus:
    """Summarise one output of validate."""
    splits: Counter[str] = Counter()
    emotions: Counter[str] = Counter()
    for row in read_table(source.path / "utterances.parquet", ["split", "emotion"]):
        splits[row["split"]] += 1
        emotions[row["emotion"] or "no label"] += 1
    reasons: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for row in read_table(source.path / "quarantine.parquet"):
        reasons[row["reason"]] += 1
        shown.append(row)
        if len(shown) > 2 * SHOWN:  # bounds the memory, whatever the size of the table
            shown = sorted(shown, key=_order)[:SHOWN]
    rows = source.manifest["rows"]
    summary = json.loads((source.path / "summary.json").read_text("utf-8"))
    return Corpus(
        name=str(source.manifest["name"]),
        rows_in=int(rows["in"]),
        rows_out=int(rows["out"]),
        splits=_ordered(splits, SPLITS),
        emotions=_ordered(emotions, EMOTIONS),
        reasons=dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        quarantined=sorted(shown, key=_order)[:SHOWN],
        hidden=max(0, sum(reasons.values()) - SHOWN),
        facts=flatten(summary),
    )


def _ordered(counts: Counter[str], order: Sequence[str]) -> dict[str, int]:
    """Return the counts in this order, unknown names last."""
    return {name: counts[name] for name in (*order, *sorted(counts.keys() - set(order))) if name in counts}


def _order(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["reason"], row["source"], row["row_id"]


def token_budgets(amt: Path, base: Source, corpus: Source, stages: Mapping[str, Source]) -> dict[str, Budget]:
    """Count the tokens of each trained stage's rows against its ``max_length``.

    Args:
        amt: Output of build-amt.
        base: The base model.
        corpus: Any output of validate: all have the same number of frames per video.
        stages: Trained stage -> its output.
    """
    lengths = {name: int(source.manifest["params"]["max_length"]) for name, source in stages.items()}
    return stage_budgets(amt, base.path / "model", int(corpus.manifest["params"]["media"]["frames"]), lengths)


def validation_scores(stages: Mapping[str, Source]) -> list[Validation]:
    """Return the validation scores of each stage that has some, from its ``validation.json``."""
    found = []
    for name, source in stages.items():
        path = source.path / "validation.json"
        if not path.is_file():
            continue
        results = json.loads(path.read_text("utf-8"))
        found.append(
            Validation(
                stage=name,
                select=results["select"],
                selected=int(source.manifest["facts"]["selected_step"]),
                loss=results["loss"],
                score=results["score"],
                sets={test: (result["n"], result["headline"]) for test, result in sorted(results["sets"].items())},
                steps=results["steps"],
            )
        )
    return found


def read_mixtures(amt: Path) -> list[Mixture]:
    """Count the rows of each stage and of the test files, by task and corpus."""
    stages = [_mixture(stage, [amt / f"{stage}.jsonl"]) for stage in STAGES if (amt / f"{stage}.jsonl").is_file()]
    return [*stages, _mixture("test", sorted((amt / "test").glob("*.jsonl")))]


def _mixture(name: str, paths: Sequence[Path]) -> Mixture:
    cells: dict[str, Counter[str]] = {}
    for path in paths:
        with path.open(encoding="utf-8") as handle:
            for line in handle:
                row = json.loads(line)
                cells.setdefault(row["task"], Counter())[row["corpus"]] += 1
    plain = {task: dict(sorted(cells[task].items())) for task in sorted(cells)}
    return Mixture(name, plain, sum(sum(counts.values()) for counts in plain.values()))


def read_audit(amt: Path) -> list[tuple[str, str]]:
    """Return ``audit.json`` as (dotted name, text) pairs, without its table of files, which is on AMT's own page."""
    tree = json.loads((amt / "audit.json").read_text("utf-8"))
    tree.pop("files", None)
    return flatten(tree)


def flatten(tree: Any, limit: int = 200) -> list[tuple[str, str]]:
    """Return a JSON tree as (dotted name, text) pairs, at most ``limit`` and then the number left out."""
    pairs = list(_walk(tree, ""))
    more = len(pairs) - limit
    return pairs if more <= 0 else [*pairs[:limit], ("...", f"{more} more in the file itself")]


def _walk(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _walk(value, f"{name} › {key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(value, dict | list) for value in tree):
        yield name, f"{len(tree):,} entries"
    elif isinstance(tree, list):
        yield name, ", ".join(_text(value) for value in tree[:12]) + (" ..." if len(tree) > 12 else "")
    else:
        yield name, _text(tree)


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
