"""Say where a task runs: its image, its place in the cluster, what it is told and sees, how often it is tried."""

# No `from __future__ import annotations` here: kfp reads the annotations of the pipeline function.
import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, List, NamedTuple, cast  # noqa: UP035  (kfp reads list types from typing)

from kfp import compiler, dsl, kubernetes

from components.adopt import adopt
from components.base_model import base_model
from components.budget import budget
from components.build_amt import build_amt
from components.convert import convert
from components.evaluate import evaluate
from components.export import export
from components.fetch import fetch
from components.finish import finish
from components.over_seeds import over_seeds
from components.report import report
from components.train import train
from components.validate import validate
from components.validate_join import validate_join
from components.validate_part import validate_part
from emoverse.artifacts.lineage import IMAGE_NAME, REVISION
from emoverse.config import Params
from emoverse.errors import UserError
from pipelines.checks import check_params
from pipelines.cluster import WORKSPACE, Cluster, Group, Pods
from pipelines.options import Arguments, Options, presets

# Steps that pull from a network or hold a node for long: their pods are the ones that go away under them. validate as a
# whole is not among them: it also fails for good, when too many rows are bad, after hours that nobody wants thrice.
RETRIED: Final = ("fetch", "validate-part", "train", "evaluate")


@dataclass(frozen=True)
class Placing:
    """Puts the tasks of one pipeline in their places."""

    options: Options

    def put(self, task: Any, group: Group, step: str) -> Any:
        """Place a task that runs ``step`` in the image of ``group``; return the task."""
        options = self.options
        images = options.cluster.named(options.images)
        image = images.data if group == "data" else images.train
        task.set_container_image(image)
        if not options.cache:  # the client's own switch misses the tasks inside a loop
            task.set_caching_options(False)
        if options.revision:  # as a variable: a parameter would make Kubeflow's cache run all again at each commit
            task.set_env_variable(REVISION, options.revision)
        if options.labels or not options.local:
            task.set_env_variable(IMAGE_NAME, options.labels.get(image, image))
        if not options.local:
            retries = options.cluster.retries
            if step in RETRIED and retries.count:
                task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.longest}s")
            _settle(task, options.cluster, group, step)
        return task


def config_of(cluster: Cluster) -> dsl.PipelineConfig | None:
    """Return what Kubeflow makes for a run as a whole: its workspace, where the profile has one."""
    if cluster.workspace is None:
        return None
    asked = {"storageClassName": cluster.workspace.storage_class, "accessModes": list(cluster.workspace.access_modes)}
    patch = dsl.KubernetesWorkspaceConfig(pvcSpecPatch={key: value for key, value in asked.items() if value})
    return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=cluster.workspace.size, kubernetes=patch))


def _settle(task: Any, cluster: Cluster, group: Group, step: str) -> None:
    """Give a task of the pipeline what the profile says for its image and its step."""
    pods: Pods = getattr(cluster, group)
    if pods.cpu:
        task.set_cpu_request(pods.cpu)
    if pods.memory:
        task.set_memory_request(pods.memory).set_memory_limit(pods.memory)
    if cluster.gpu and step in cluster.gpu.steps:
        task.set_accelerator_type(cluster.gpu.type).set_accelerator_limit(cluster.gpu.count)
    for key, value in pods.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for one in pods.tolerations:
        kubernetes.add_toleration(task, key=one.key, operator=one.operator, value=one.value, effect=one.effect)
    if pods.shared_memory:
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=pods.shared_memory)
    for key, value in pods.env.items():
        task.set_env_variable(key, value)
    _attach(task, cluster)


def _attach(task: dsl.PipelineTask, cluster: Cluster) -> None:
    for volume in cluster.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.folder)
    for secret in cluster.secrets:
        if secret.env:
            kubernetes.use_secret_as_env(task, secret.name, secret.env)
        if secret.path:
            kubernetes.use_secret_as_volume(task, secret.name, secret.path)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))


NAME: Final = "emoverse"


def pipeline(defaults: Arguments, options: Options | None = None) -> Any:
    """Return the pipeline, its parameters preset to ``defaults``; ``options`` choose images, cluster and variant."""
    preset, options = defaults.as_keywords(), options or Options()
    placing = Placing(options)
    apart = validation_apart(options, placing) if options.seeds else None

    def emoverse(
        corpora: list = preset["corpora"],  # type: ignore[type-arg]
        raw_volume: str = WORKSPACE if options.cluster.workspace else "",
        media: str = preset["media"],
        validation: str = preset["validation"],
        amt: str = preset["amt"],
        base_model: str = preset["base_model"],
        stage1: str = preset["stage1"],
        stage2: str = preset["stage2"],
        evaluate: str = preset["evaluate"],
        export: str = preset["export"],
        code_validate: str = preset["code_validate"],
        code_build_amt: str = preset["code_build_amt"],
        code_base_model: str = preset["code_base_model"],
        code_budget: str = preset["code_budget"],
        code_train: str = preset["code_train"],
        code_evaluate: str = preset["code_evaluate"],
        code_export: str = preset["code_export"],
        code_report: str = preset["code_report"],
        weights_md5: str = preset["weights_md5"],
        weights_remote: str = preset["weights_remote"],
        weights_root: str = preset["weights_root"],
    ) -> Results:
        given = SimpleNamespace(**locals(), adopted=bool(defaults.weights))
        if options.local:
            return cast(Results, wire(given, options, placing, apart))
        with dsl.ExitHandler(_ending(options, placing), name="emoverse run"):
            wire(given, options, placing, apart)
        return None  # type: ignore[return-value]

    if not options.local or options.seeds:
        del emoverse.__annotations__["return"]  # from within an exit handler kfp lets no output out
    what = "From raw emotional videos to a trained, scored, exported model"
    return dsl.pipeline(name=NAME, description=what, pipeline_config=config_of(options.cluster))(emoverse)


def _ending(options: Options, placing: Placing) -> Any:
    task = finish(
        name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, publish=options.cluster.publish
    )
    placing.put(task, "data", "finish")
    return task.set_caching_options(False)


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


GOLDEN = Path(__file__).with_name("emoverse.yaml")


def compile_to(path: Path, params: Params, *, base: Path = Path(), options: Options | None = None) -> None:
    """Write the compiled pipeline to ``path``, preset to ``params`` and to the ``.dvc`` files below ``base``."""
    options = options or Options()
    check_params(params, options)
    if path.suffix != ".yaml":
        raise UserError("no name for a pipeline", place=str(path), remedy="give --out a name that ends in .yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline(presets(params, base), options), str(path))
    path.write_text(_in_order(path.read_text("utf-8")), "utf-8")


def _in_order(compiled: str) -> str:
    """Return the YAML with the keys of its header's presets sorted: kfp writes them in another order each time."""

    def sort(found: re.Match[str]) -> str:
        return found[1] + repr([dict(sorted(item.items())) for item in ast.literal_eval(found[2])]) + "]"

    return re.sub(r"^(#    \w+: list \[Default: )(\[\{.*\}\])\]$", sort, compiled, flags=re.MULTILINE)
