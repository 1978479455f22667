"""The pipeline's parameters and its frame: images, cluster, what happens when a run ends. ``wiring`` joins the steps.

Kubeflow's cache never looks at content: it compares parameters and artifact ids. So everything a result depends on is a
parameter of its step: its sections of params.yaml, the MD5 of the raw corpus, the digest of its code.
"""

from types import SimpleNamespace
from typing import Any, Final, cast

from kfp import dsl

from components.finish import finish
from pipelines.arguments import Arguments
from pipelines.cluster import WORKSPACE
from pipelines.options import Options
from pipelines.placing import Placing, config_of
from pipelines.wiring import Results, validation_apart, wire

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
