"""Wire the components: which output feeds which step. Nothing else is decided here.

Kubeflow's cache never looks at content: it compares parameters and artifact ids. So everything a result depends on is a
parameter of its step: its sections of params.yaml, the MD5 of the raw corpus, the digest of its code.
"""

from typing import Any, Final, List, NamedTuple  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import base_model as base_model_file
from components import build_amt as build_amt_file
from components import evaluate as evaluate_file
from components import export as export_file
from components import fetch as fetch_file
from components import report as report_file
from components import train as train_file
from components import validate as validate_file
from components.image import IMAGE
from emoverse.lineage import IMAGE_NAME, REVISION
from pipelines.arguments import Arguments

NAME: Final = "emoverse"


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


def pipeline(defaults: Arguments, image: str = IMAGE, *, revision: str = "", cache: bool = True) -> Any:
    """Return the pipeline, its parameters preset to ``defaults`` and its steps run in ``image``.

    ``revision`` is the git commit that submits it; each artifact's metadata names it and the image. Without ``cache``
    no step is taken from Kubeflow's cache.
    """
    preset = defaults.as_keywords()

    def place(task: dsl.PipelineTask) -> None:
        task.set_container_image(image)
        if not cache:  # the client's own switch misses the tasks inside a loop
            task.set_caching_options(False)
        if revision:  # as a variable: a parameter would make Kubeflow's cache run everything again at each commit
            task.set_env_variable(REVISION, revision).set_env_variable(IMAGE_NAME, image)

    @dsl.pipeline(name=NAME, description="From raw emotional videos to a trained, scored, exported model")
    def emoverse(
        corpora: list = preset["corpora"],  # type: ignore[type-arg]
        raw_volume: str = "",
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
        code_train: str = preset["code_train"],
        code_evaluate: str = preset["code_evaluate"],
        code_export: str = preset["code_export"],
        code_report: str = preset["code_report"],
    ) -> Results:
        with dsl.ParallelFor(corpora) as item:
            fetched = fetch_file.fetch(
                corpus=item.corpus, md5=item.md5, remote=item.remote, root=item.root, volume=raw_volume
            )
            checked = validate_file.validate(
                corpus=item.corpus,
                raw_md5=item.md5,
                media=media,
                validation=validation,
                code=code_validate,
                raw=fetched.outputs["raw"],
            )
            place(fetched)
            place(checked)

        def validated() -> dsl.Collected:
            return dsl.Collected(checked.outputs["validated"])  # a fresh one each time: kfp's compiler writes into it

        built = build_amt_file.build_amt(params=amt, code=code_build_amt, validated=validated())
        dataset = built.outputs["amt"]
        base = base_model_file.base_model(params=base_model, media=media, code=code_base_model)
        first = train_file.train(
            stage="stage1",
            params=stage1,
            code=code_train,
            model=base.outputs["model"],
            amt=dataset,
            validated=validated(),
        ).set_display_name("train stage1")
        second = train_file.train(
            stage="stage2",
            params=stage2,
            code=code_train,
            model=first.outputs["trained"],
            amt=dataset,
            validated=validated(),
        ).set_display_name("train stage2")
        trained = second.outputs["trained"]
        scored = evaluate_file.evaluate(
            params=evaluate, code=code_evaluate, model=trained, amt=dataset, validated=validated()
        )
        exported = export_file.export(
            params=export,
            code=code_export,
            model=trained,
            amt=dataset,
            validated=validated(),
            scores=scored.outputs["scores"],
        )
        reported = report_file.report(
            code=code_report,
            validated=validated(),
            amt=dataset,
            base=base.outputs["model"],
            stage1=first.outputs["trained"],
            stage2=trained,
            scores=scored.outputs["scores"],
            onnx=exported.outputs["onnx"],
        )
        for task in (built, base, first, second, scored, exported, reported):
            place(task)
        return Results(
            validated=validated(),
            amt_dataset=dataset,
            base=base.outputs["model"],
            first=first.outputs["trained"],
            second=trained,
            scores=scored.outputs["scores"],
            onnx=exported.outputs["onnx"],
            report=reported.outputs["results"],
        )

    return emoverse
