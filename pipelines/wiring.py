"""Wire the components: which output feeds which step. Nothing else is decided here."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, List, NamedTuple, cast  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.adopt import adopt
from components.base_model import base_model
from components.budget import budget
from components.build_amt import build_amt
from components.convert import convert
from components.evaluate import evaluate
from components.export import export
from components.fetch import fetch
from components.over_seeds import over_seeds
from components.report import report
from components.train import train
from components.validate import validate
from components.validate_join import validate_join
from components.validate_part import validate_part
from pipelines.options import Options
from pipelines.placing import Placing


class Results(NamedTuple):
    """What a run leaves."""

    validated: List[dsl.Dataset]  # noqa: UP006
    amt_dataset: dsl.Dataset
    base: dsl.Model
    first: dsl.Model
    second: dsl.Model
    scores: dsl.Artifact
    onnx: dsl.Model
    report: dsl.Artifact


class Made(NamedTuple):
    """A model, and the artifact that has all of it but its weights: pods without need of these do not load them."""

    model: Any
    light: Any


def wire(given: SimpleNamespace, options: Options, placing: Placing, apart: Any = None) -> Any:
    """Make all tasks of a run; return its Results, or nothing for a sweep.

    ``given`` holds the run's parameters, ``apart`` is what ``validation_apart`` returned, for a sweep.
    """
    if apart:
        names = ("corpora", "raw_volume", "media", "validation", "code_validate")
        corpora = apart(**{name: getattr(given, name) for name in names}).output
        validated: Callable[[], Any] = lambda: corpora  # noqa: E731
    else:
        checked = _validated(given, options, placing)
        # a fresh one each time: kfp's compiler writes into it
        validated = lambda: dsl.Collected(checked.outputs["validated"])  # noqa: E731

    built = build_amt(params=given.amt, code=given.code_build_amt, validated=validated())
    placing.put(built, "data", "build-amt")
    dataset = built.outputs["amt"]
    start = _start(given, options, placing)
    counted = budget(
        media=given.media, stage1="" if options.start == "stage1" else given.stage1, stage2=given.stage2,
        code=given.code_budget, model=start.light, amt=dataset,
    )  # fmt: skip
    placing.put(counted, "data", "budget")

    def trained(stage: str, model: Any, seed: Any = "") -> Made:
        from_outside = options.model_digest if options.start == "stage1" else ""
        task = train(
            stage=stage, params=getattr(given, stage), code=given.code_train, seed=seed, model=model, base=start.model,
            amt=dataset, validated=validated(), given=from_outside,
        ).after(counted)  # fmt: skip
        return _made(placing.put(task.set_display_name(f"train {stage}"), "train", "train"), "trained")

    def scored(model: Any) -> Any:
        task = evaluate(
            params=given.evaluate, code=given.code_evaluate, model=model, amt=dataset, validated=validated()
        )
        return placing.put(task, "train", "evaluate").outputs["scores"]

    if options.seeds:
        with dsl.ParallelFor([{"seed": str(seed)} for seed in options.seeds]) as item:
            first = start if options.start == "stage1" else trained("stage1", start.model, item.seed)
            one = scored(trained("stage2", first.model, item.seed).model)
        placing.put(over_seeds(code=given.code_report, scores=dsl.Collected(one)), "data", "over-seeds")
        return None

    first = start if options.start == "stage1" else trained("stage1", start.model)
    second = trained("stage2", first.model)
    scores = scored(second.model)
    exported = export(
        params=given.export, code=given.code_export, model=second.model, amt=dataset, validated=validated(),
        scores=scores,
    )  # fmt: skip
    onnx = _made(placing.put(exported, "train", "export"), "onnx")
    stages = {"base": start.light, "stage2": second.light} | ({} if first is start else {"stage1": first.light})
    publish = {"run": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "publish": options.cluster.publish}
    reported = report(
        code=given.code_report, validated=validated(), amt=dataset, scores=scores, onnx=onnx.light, **stages,
        **(publish if options.cluster.publish else {}),
    )  # fmt: skip
    placing.put(reported, "data", "report")
    models = (start.model, first.model, second.model)
    return Results(validated(), dataset, *models, scores, onnx.model, reported.outputs["results"])


def _made(task: Any, name: str) -> Made:
    return Made(task.outputs[name], task.outputs["without_weights"])


def _validated(given: SimpleNamespace, options: Options, placing: Placing) -> Any:
    """Fetch and validate each corpus, on one pod or on several; return the task that leaves it validated."""
    with dsl.ParallelFor(given.corpora) as item:
        fetched = fetch(corpus=item.corpus, md5=item.md5, remote=item.remote, root=item.root, volume=given.raw_volume)
        placing.put(fetched, "data", "fetch")
        common = {
            "media": given.media,
            "code": given.code_validate,
            "volume": given.raw_volume,
            "raw": fetched.outputs["raw"],
        }
        whole = {"corpus": item.corpus, "raw_md5": item.md5, "validation": given.validation}
        if options.shards == 1:
            return placing.put(validate(**common, **whole), "data", "validate")
        numbers = [f"{n}/{options.shards}" for n in range(1, options.shards + 1)]
        with dsl.ParallelFor(numbers) as part:
            # Nothing of the outer loop's item goes in here but by an artifact: kfp's local runner would put the inner
            # loop's item in its place.
            one = placing.put(validate_part(part=part, **common), "data", "validate-part")
        joined = validate_join(parts=dsl.Collected(one.outputs["part_of_it"]), **common, **whole)
        return placing.put(joined, "data", "validate")


def validation_apart(options: Options, placing: Placing) -> Any:
    """Return fetching and validation as a component of its own, for a sweep.

    What one loop collected kfp lets into no other loop; a component's output it does.
    """

    @dsl.pipeline(name="validated")
    def validated(
        corpora: list,  # type: ignore[type-arg]
        raw_volume: str,
        media: str,
        validation: str,
        code_validate: str,
    ) -> List[dsl.Dataset]:  # noqa: UP006
        inner = SimpleNamespace(**locals())
        return cast(Any, dsl.Collected(_validated(inner, options, placing).outputs["validated"]))  # type: ignore[no-any-return]

    return validated


def _start(given: SimpleNamespace, options: Options, placing: Placing) -> Made:
    """Return the model that training starts from; that of start ``stage1`` is the result of that stage."""
    if options.start == "base-model" and given.adopted:
        md5, places = given.weights_md5, {"remote": given.weights_remote, "root": given.weights_root}
        fetched = fetch(corpus="weights", md5=md5, volume=given.raw_volume, **places)
        placing.put(fetched, "data", "fetch")
        taken = adopt(
            weights_md5=md5, media=given.media, code=given.code_base_model, volume=given.raw_volume,
            weights=fetched.outputs["raw"],
        )  # fmt: skip
        return _made(placing.put(taken, "train", "base-model"), "model")
    if options.start == "base-model":
        made = base_model(params=given.base_model, media=given.media, code=given.code_base_model)
        return _made(placing.put(made, "train", "base-model"), "model")
    # Kubeflow takes what it once imported from an address for what lies there now. So either what reads it is told a
    # digest of what lies there, or it is imported anew and all that reads it runs again.
    source = dsl.importer(artifact_uri=options.model, artifact_class=dsl.Model, reimport=not options.model_digest)
    if options.start == "stage1":
        return Made(source.output, source.output)
    name = options.model.rstrip("/").rpartition("/")[2]
    converted = convert(name=name, listing=options.model_digest, code=given.code_base_model, source=source.output)
    return _made(placing.put(converted, "train", "convert"), "model")
