"""Declare every step of the workflow once.

``dvc.yaml``, the Kubeflow components, the command line, the code digests, the images' requirements and the table in
``docs/architecture.md`` are derived from this table or held to it by ``tests/unit/test_registry.py``. A new step is one
entry here, one function and one component.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Image = Literal["data", "train"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: a command of the CLI, a function of the library, a Kubeflow component and (mostly) a DVC stage.

    Attributes:
        name: Name of the command, of the step in manifests and of the component (with ``_`` for ``-``).
        function: Entry point as ``package.module:function``; its imports decide which code belongs to the step.
        image: Container image that the component runs in: ``data`` has no torch.
        sections: Sections of params.yaml that decide the result.
        inputs: Outputs of other steps that are read, by the name the manifest gives them.
        outputs: Files in the output folder, for the documentation.
        libraries: Distributions whose version decides the result; the manifest records them.
        extra_modules: Modules that decide the result and that the imports of ``function`` do not show.
        file_parameters: Parameters that may name a file (``file:PATH``) whose content decides the result.
        stages: Names of the DVC stages that run the step; empty where only Kubeflow runs it.
    """

    name: str
    function: str
    image: Image
    sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    extra_modules: tuple[str, ...] = ()
    file_parameters: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the name, which test reports show."""
        return self.name

    @property
    def module(self) -> str:
        """Return the module of the entry point."""
        return self.function.partition(":")[0]


_STEPS: Final = (
    Step(
        name="validate",
        function="emoverse.validation.validate:validate",
        image="data",
        sections=("media", "validation"),
        inputs=("raw",),
        outputs=(
            "utterances.parquet", "probe.parquet", "action_units.parquet", "quarantine.parquet", "frames/NNNNN.tar",
            "frames/index.parquet", "summary.json", "page.html",
        ),
        libraries=("av", "decord", "great_expectations", "numpy", "pillow", "pyarrow"),
        stages=("validate",),
    ),
    Step(
        name="build-amt",
        function="emoverse.amt.build_amt:build_amt",
        image="data",
        sections=("corpora", "amt"),
        inputs=("validated",),
        outputs=(
            "stage1.jsonl", "stage2.jsonl", "test/CORPUS-TASK.jsonl", "validation/CORPUS-TASK.jsonl",
            "published/*.json", "audit.json", "leaks.jsonl", "conflicts.jsonl", "baselines.json", "page.html",
        ),
        libraries=("datasketch", "great_expectations", "numpy", "orjson", "pyarrow"),
        extra_modules=("emoverse.validation.amt_rows",),  # the check that command and component pass to the step
        file_parameters=("amt.reasons",),
        stages=("build-amt",),
    ),
    Step(
        name="base-model",
        function="emoverse.models.base_model:base_model",
        image="train",
        sections=("media", "base_model"),
        outputs=("model/",),
        libraries=("safetensors", "tokenizers", "torch", "transformers"),
        stages=("base-model",),
    ),
    Step(
        name="convert",
        function="emoverse.models.convert:convert",
        image="train",
        inputs=("source",),
        outputs=("model/",),
        libraries=("safetensors", "tokenizers", "torch", "transformers"),
    ),
    Step(
        name="budget",
        function="emoverse.budget:budget",
        image="data",
        sections=("media", "stage1", "stage2"),
        inputs=("amt", "model"),
        outputs=("budget.json", "table.md"),
        libraries=("tokenizers",),
    ),
    Step(
        name="train",
        function="emoverse.training.train:train",
        image="train",
        sections=("train", "stage1", "stage2"),
        inputs=("amt", "validated", "model", "base"),
        outputs=("model/", "adapter/", "log.jsonl", "rows.json", "validation.json"),
        libraries=("ms-swift", "peft", "torch", "transformers"),
        stages=("stage1", "stage2"),
    ),
    Step(
        name="evaluate",
        function="emoverse.evaluation.evaluate:evaluate",
        image="train",
        sections=("evaluate",),
        inputs=("amt", "validated", "model"),
        outputs=("metrics.json", "published.json", "predictions/CORPUS-TASK.jsonl", "plots/*.csv"),
        libraries=("numpy", "tokenizers", "torch", "transformers"),
        stages=("evaluate",),
    ),
    Step(
        name="export",
        function="emoverse.export.export:export",
        image="train",
        sections=("export",),
        inputs=("amt", "validated", "model", "scores"),
        outputs=(
            "vision.onnx", "embed.onnx", "decoder.onnx", "tokenizer.json", "settings.json", "prompts.json",
            "parity.json", "MODEL_CARD.md",
        ),
        libraries=("onnx", "onnxruntime-gpu", "onnxscript", "tokenizers", "torch", "transformers"),
        stages=("export",),
    ),
    Step(
        name="report",
        function="emoverse.report.report:report",
        image="data",
        inputs=("validated", "amt", "base", "stage1", "stage2", "scores", "onnx"),
        outputs=("index.html", "scores/*.json", "loss/*.csv", "confusion.csv", "reliability.csv", "classes.csv"),
        libraries=("jinja2", "pillow"),
        extra_modules=("emoverse.artifacts.lineage",),  # the page shows the lineage it draws
        stages=("report",),
    ),
)  # fmt: skip

STEPS: Final[dict[str, Step]] = {step.name: step for step in _STEPS}
