"""Build and compile the Kubeflow pipeline: its tasks, their inputs, and the settings of their pods."""

# No `from __future__ import annotations`: kfp reads the types of the pipeline's parameters from the annotations.
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, List, NamedTuple  # noqa: UP035  (kfp reads list types from typing)

import yaml
from google.protobuf.json_format import MessageToDict
from kfp import compiler, dsl, kubernetes

from components.base_model import base_model
from components.budget import budget
from components.build_amt import build_amt
from components.compare_seeds import compare_seeds
from components.convert import convert
from components.evaluate import evaluate
from components.export import export
from components.fetch import fetch
from components.finish import finish
from components.import_base_model import import_base_model
from components.publish import publish
from components.report import report
from components.train import train
from components.validate import validate
from components.validate_join import validate_join
from components.validate_part import validate_part
from emoverse.artifacts.lineage import IMAGE_NAME
from emoverse.compat.kfp import WORKSPACE, with_printable_header
from emoverse.config import Params
from emoverse.errors import UserError
from emoverse.training.train_job import TEMPLATE
from pipelines.checks import check_params
from pipelines.cluster import Cluster, Image, Pods, train_job_template
from pipelines.options import PipelineOptions, RunArguments, default_arguments
from pipelines.verify import upstream, verify

NAME: Final = "emoverse"
# Steps that pull from a network or hold a node for hours. Not validate: it fails for good when too many rows are bad.
RETRIED: Final = ("fetch", "validate-part", "train", "evaluate")


class Results(NamedTuple):
    """Outputs of a run."""

    validated: List[dsl.Dataset]  # noqa: UP006
    amt_dataset: dsl.Dataset
    base: dsl.Model
    first: dsl.Model
    second: dsl.Model
    scores: dsl.Artifact
    onnx: dsl.Model
    report: dsl.Artifact


class Model(NamedTuple):
    """A model, and its copy without weights for pods that need only its metadata."""

    whole: Any
    light: Any


def pipeline(defaults: RunArguments, options: PipelineOptions | None = None) -> Any:
    """Return the pipeline with ``defaults`` as its default parameters, in the variant that ``options`` choose."""
    preset, options = defaults.as_keywords(), options or PipelineOptions()
    nodes = {stage: int(preset[stage]["nodes"]) for stage in ("stage1", "stage2")}

    def emoverse(
        corpora: list = preset["corpora"],
        raw_volume: str = WORKSPACE if options.cluster.workspace else "",
        media: dict = preset["media"],
        validation: dict = preset["validation"],
        amt: dict = preset["amt"],
        base_model: dict = preset["base_model"],
        stage1: dict = preset["stage1"],
        stage2: dict = preset["stage2"],
        evaluate: dict = preset["evaluate"],
        export: dict = preset["export"],
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
        builder = Builder(options, SimpleNamespace(**locals()), bool(defaults.weights), nodes)
        # Only a run that publishes needs an exit handler, inside which the UI shows all steps as one box.
        with dsl.ExitHandler(builder.exit_task(), name="run") if options.cluster.publish else nullcontext():
            results = builder.build()
        return results if has_outputs else None  # type: ignore[return-value]

    # The server has no use for the pipeline's own outputs, and kfp allows none from within an exit handler.
    has_outputs = options.local and not (options.seeds or options.cluster.publish)
    if not has_outputs:
        del emoverse.__annotations__["return"]
    description = "From raw emotional videos to a trained, scored, exported model"
    if options.revision:
        description += f" (revision {options.revision})"
    return dsl.pipeline(name=NAME, description=description, pipeline_config=_config(options.cluster))(emoverse)


@dataclass(frozen=True)
class Builder:
    """Make the tasks of one pipeline from its parameters (``inputs``: channels by parameter name).

    ``import_weights``: the base model is a checkpoint under DVC, not the tiny one. ``nodes``: how many train
    a stage, 1 by default.
    """

    options: PipelineOptions
    inputs: SimpleNamespace
    import_weights: bool
    nodes: Mapping[str, int] = field(default_factory=dict)

    def build(self) -> Results | None:
        """Make all tasks; return the outputs, or None for a sweep."""
        options, inputs = self.options, self.inputs
        corpora = self.validate()

        def validated() -> Any:  # a fresh one per use: kfp's compiler modifies it
            return dsl.Collected(corpora.outputs["validated"])

        built = self._configure(
            build_amt(params=inputs.amt, code_digest=inputs.code_build_amt, validated=validated()), "data", "build-amt"
        )
        amt = built.outputs["amt"]
        start = self._start()
        counted = budget(
            media=inputs.media, stage1={} if options.start == "stage1" else inputs.stage1, stage2=inputs.stage2,
            code_digest=inputs.code_budget, model=start.light, amt=amt,
        )  # fmt: skip
        self._configure(counted, "data", "budget")
        data = {"amt": amt, "validated": validated}
        if options.seeds:
            scores = [self._evaluate(self._train(start, counted, data, seed)[1], data, seed) for seed in options.seeds]
            inputs_of_table = {f"scores_{number}": item for number, item in enumerate(scores, 1)}
            compared = compare_seeds(code_digest=inputs.code_report, **inputs_of_table)
            self._configure(compared, "data", "compare-seeds")
            return None
        first, second = self._train(start, counted, data)
        scores_of_run = self._evaluate(second, data)
        onnx, results = self._report(start, first, second, scores_of_run, data)
        return Results(
            validated(), amt, start.whole, first.whole, second.whole, scores_of_run, onnx.whole, results
        )  # fmt: skip

    def exit_task(self) -> Any:
        """Make the task that runs when the run has ended, whatever became of it."""
        task = finish(
            name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            publish=self.options.cluster.publish,
            revision=self.options.revision,
        )
        return self._configure(task, "data", "finish").set_caching_options(False)

    def validate(self) -> Any:
        """Fetch and validate each corpus, in one pod or in several; return the task with the output ``validated``."""
        inputs, shards = self.inputs, self.options.shards
        with dsl.ParallelFor(inputs.corpora, name="corpora") as item:
            fetched = self._fetch(item.corpus, item.md5, item.remote, item.root)
            common = {
                "media": inputs.media,
                "code_digest": inputs.code_validate,
                "volume": inputs.raw_volume,
                "raw": fetched.outputs["raw"],
            }
            whole = {"corpus": item.corpus, "raw_md5": item.md5, "validation": inputs.validation}
            if shards == 1:
                return self._configure(validate(**common, **whole), "data", "validate")
            with dsl.ParallelFor([f"{number}/{shards}" for number in range(1, shards + 1)], name="shards") as part:
                # Of the outer loop's item only artifacts come in here: kfp's local runner would replace a parameter of
                # it by the inner loop's item.
                shard = self._configure(validate_part(part=part, **common), "data", "validate-part")
            joined = validate_join(parts=dsl.Collected(shard.outputs["shard"]), **common, **whole)
            return self._configure(joined, "data", "validate")

    def _fetch(self, corpus: Any, md5: Any, remote: Any, root: Any) -> Any:
        task = fetch(corpus=corpus, md5=md5, remote=remote, root=root, volume=self.inputs.raw_volume)
        return self._configure(task, "data", "fetch")

    def _start(self) -> Model:
        """Return the model that training starts from; with start ``stage1`` it is the result of that stage."""
        options, inputs = self.options, self.inputs
        if options.start == "base-model" and self.import_weights:
            fetched = self._fetch("weights", inputs.weights_md5, inputs.weights_remote, inputs.weights_root)
            fetched.set_display_name("fetch base model")
            imported = import_base_model(
                weights_md5=inputs.weights_md5, media=inputs.media, code_digest=inputs.code_base_model,
                volume=inputs.raw_volume, weights=fetched.outputs["raw"],
            )  # fmt: skip
            imported.set_display_name("base-model")
            return _model(self._configure(imported, "train", "base-model"), "model")
        if options.start == "base-model":
            made = base_model(params=inputs.base_model, media=inputs.media, code_digest=inputs.code_base_model)
            return _model(self._configure(made, "train", "base-model"), "model")
        # Kubeflow takes an address that it once imported for unchanged. So either a digest of the content is part of
        # the reader's key, or the model is imported anew and everything that reads it runs again.
        source = dsl.importer(artifact_uri=options.model, artifact_class=dsl.Model, reimport=not options.model_digest)
        if options.start == "stage1":
            return Model(source.output, source.output)
        name = options.model.rstrip("/").rpartition("/")[2]
        converted = convert(
            name=name, source_digest=options.model_digest, code_digest=inputs.code_base_model, source=source.output
        )
        return _model(self._configure(converted, "train", "convert"), "model")

    def _train(self, start: Model, counted: Any, data: Any, seed: int | None = None) -> tuple[Model, Model]:
        """Train both stages, or stage 2 alone where stage 1 is given; return the model of each."""
        skips_stage1 = self.options.start == "stage1"
        first = start if skips_stage1 else self._train_stage("stage1", start, data, seed, after=counted)
        base = {} if skips_stage1 else {"base": start.whole}
        digest = {"model_digest": self.options.model_digest} if skips_stage1 else {}
        after = counted if skips_stage1 else None
        second = self._train_stage("stage2", first, data, seed, after=after, **base, **digest)
        return first, second

    def _train_stage(
        self, stage: str, model: Model, data: Any, seed: int | None, *, after: Any, **optional: Any
    ) -> Model:
        task = train(
            stage=stage, params=getattr(self.inputs, stage), overrides={} if seed is None else {"seed": seed},
            code_digest=self.inputs.code_train, model=model.whole, amt=data["amt"], validated=data["validated"](),
            **optional,
        )  # fmt: skip
        if after is not None:
            task.after(after)
        task.set_display_name(f"train {stage}{_suffix(seed)}")
        return _model(self._configure(task, "train", "train", nodes=self.nodes.get(stage, 1)), "trained")

    def _evaluate(self, model: Model, data: Any, seed: int | None = None) -> Any:
        task = evaluate(
            params=self.inputs.evaluate, code_digest=self.inputs.code_evaluate, model=model.whole, amt=data["amt"],
            validated=data["validated"](),
        )  # fmt: skip
        task.set_display_name(f"evaluate{_suffix(seed)}")
        return self._configure(task, "train", "evaluate").outputs["scores"]

    def _report(self, start: Model, first: Model, second: Model, scores: Any, data: Any) -> tuple[Model, Any]:
        """Export and report; return the exported model and the report."""
        exported = export(
            params=self.inputs.export, code_digest=self.inputs.code_export, model=second.whole, amt=data["amt"],
            validated=data["validated"](), scores=scores,
        )  # fmt: skip
        onnx = _model(self._configure(exported, "train", "export"), "onnx")
        stages = {"base": start.light, "stage2": second.light} | ({} if first is start else {"stage1": first.light})
        reported = report(
            code_digest=self.inputs.code_report, validated=data["validated"](), amt=data["amt"], scores=scores,
            onnx=onnx.light, **stages,
        )  # fmt: skip
        self._configure(reported, "data", "report")
        if folder := self.options.cluster.publish:
            # A task of its own: the run's id would keep the report itself out of the cache.
            published = publish(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, folder=folder, page=reported.outputs["page"])
            self._configure(published, "data", "publish").set_caching_options(False)
        return onnx, reported.outputs["results"]

    def _configure(self, task: Any, image: Image, step: str, *, nodes: int = 1) -> Any:
        """Set the image, caching, retries and pod settings of a task that runs ``step``; return the task.

        A task that trains on several ``nodes`` only waits for them: it gets the resources of the data image's pods.

        Nothing that changes without changing the result may be set here: Kubeflow's cache key contains the image, the
        arguments and the claims, and in later versions the environment.
        """
        options, cluster = self.options, self.options.cluster
        images = cluster.images_or(options.images)
        reference = images.data if image == "data" else images.train
        task.set_container_image(reference)
        if not options.cache:  # the client's own switch misses the tasks inside a loop
            task.set_caching_options(False)
        if options.labels or not options.local:
            task.set_env_variable(IMAGE_NAME, options.labels.get(reference, reference))
        if not options.local:
            retries = cluster.retries
            if step in RETRIED and retries.count:
                task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.longest}s")
            if nodes > 1 and cluster.trainer:
                job = train_job_template(cluster, cluster.trainer, reference, options.labels.get(reference, ""))
                described = {"folder": cluster.trainer.folder, "job": job}
                task.set_env_variable(TEMPLATE, json.dumps(described, sort_keys=True, separators=(",", ":")))
                _configure_pod(task, cluster, "data", "")
            else:
                _configure_pod(task, cluster, image, step)
        return task


def _suffix(seed: int | None) -> str:
    return "" if seed is None else f" seed {seed}"


def _model(task: Any, output: str) -> Model:
    return Model(task.outputs[output], task.outputs["without_weights"])


def _config(cluster: Cluster) -> dsl.PipelineConfig | None:
    """Return the workspace that Kubeflow creates for a run, where the profile has one."""
    if cluster.workspace is None:
        return None
    patch = {"storageClassName": cluster.workspace.storage_class, "accessModes": list(cluster.workspace.access_modes)}
    kubernetes_config = dsl.KubernetesWorkspaceConfig(pvcSpecPatch={k: v for k, v in patch.items() if v})
    return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=cluster.workspace.size, kubernetes=kubernetes_config))


def _configure_pod(task: Any, cluster: Cluster, image: Image, step: str) -> None:
    pods: Pods = getattr(cluster, image)
    settings: tuple[tuple[Callable[[Any], Any], Any], ...] = (
        (task.set_cpu_request, pods.cpu),
        (task.set_cpu_limit, pods.cpu_limit),
        (task.set_memory_request, pods.memory),
        (task.set_memory_limit, pods.memory_limit or pods.memory),
    )
    for setter, amount in settings:
        if amount:
            setter(amount)
    if cluster.gpu and step in cluster.gpu.steps:
        task.set_accelerator_type(cluster.gpu.type).set_accelerator_limit(cluster.gpu.count)
    for key, value in pods.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pods.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
        )
    if pods.shared_memory:
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=pods.shared_memory)
    for key, value in pods.env.items():
        task.set_env_variable(key, value)
    if pods.threads:
        task.set_env_variable("OMP_NUM_THREADS", str(pods.threads))
    if context := cluster.security_context:
        kubernetes.set_security_context(task, run_as_user=context.user, run_as_group=context.group)
    _mount(task, cluster)


def _mount(task: Any, cluster: Cluster) -> None:
    for volume in cluster.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.folder)
    for secret in cluster.secrets:
        if secret.env:
            kubernetes.use_secret_as_env(task, secret.name, secret.env)
        if secret.path:
            kubernetes.use_secret_as_volume(task, secret.name, secret.path)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))


def _drop_implied_order(spec: Any) -> None:
    """Let no task of a compiled pipeline wait for one that it waits for already by way of another.

    kfp makes a task wait for each producer of its inputs. Kubeflow's UI draws an arrow for each, beside those of the
    artifacts, and of 25 arrows of the sample's graph 17 say nothing. The order stays the same.
    """
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        waits = {name: list(task.dependent_tasks) for name, task in dag.tasks.items()}
        for name, task in dag.tasks.items():
            implied = {other for direct in waits[name] for other in upstream(waits, waits[direct])}
            # The status that an exit task reads is that of its one direct predecessor.
            if not task.trigger_policy.strategy:
                task.dependent_tasks[:] = sorted(set(waits[name]) - implied)


def compile_to(path: Path, params: Params, *, base: Path = Path(), options: PipelineOptions | None = None) -> None:
    """Compile, verify and write the pipeline.

    Args:
        path: File to write, which ends in ``.yaml``.
        params: Default parameters of the pipeline.
        base: Folder whose ``.dvc`` files name the corpora.
        options: How to compile it.

    Raises:
        UserError: Contradictory parameters, an unsuitable file name, or a pipeline that the server would refuse;
            nothing is written then.
    """
    options = options or PipelineOptions()
    check_params(params, options)
    if path.suffix != ".yaml":
        raise UserError("not a name for a pipeline", place=str(path), remedy="give --out a name that ends in .yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.tmp.yaml")
    try:
        compiled = pipeline(default_arguments(params, base), options)
        _drop_implied_order(compiled.pipeline_spec)
        compiler.Compiler().compile(compiled, str(draft))
        messages = [compiled.pipeline_spec, *([compiled.platform_spec] if compiled.platform_spec.platforms else [])]
        documents = [MessageToDict(message) for message in messages]
        draft.write_text(with_printable_header(draft.read_text("utf-8"), documents), "utf-8")
        written = list(yaml.load_all(draft.read_text("utf-8"), Loader=yaml.CSafeLoader))
        if written != documents:
            raise ValueError("the compiled pipeline does not read back as it was written")
        verify(written, place=str(path))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
