"""Refuse parameters that a step would refuse hours later, when others have run."""

from __future__ import annotations

from emoverse.amt.mixture import stages
from emoverse.corpora import reader, readers
from emoverse.errors import UserError, did_you_mean
from emoverse.params import Params
from emoverse.tasks import tasks
from pipelines.options import Options


def check_params(params: Params, options: Options) -> None:
    """Raise UserError for a name that no corpus or task has, or for parameters that the options contradict."""
    for name in params.corpora:
        reader(name)
    for stage, mixture in (("stage1", params.amt.stage1), ("stage2", params.amt.stage2)):
        for name in sorted(set(mixture.corpora) & readers().keys() - params.corpora.keys()):
            remedy = f"name its folder under corpora in params.yaml, or remove it from amt.{stage}.corpora"
            raise UserError(f"no corpus {name!r} is there to train on", place=f"amt.{stage}.corpora", remedy=remedy)
    stages(params.amt, list(params.corpora))
    for name in params.export.floor:
        if name not in tasks():
            raise UserError(f"unknown task {name!r}", place="export.floor", remedy=did_you_mean(name, tasks()))
    if options.start == "stage1" and params.stage2.start == "adapter":
        problem = "trains stage 1's adapter further, which needs the base model too; a given model is merged"
        raise UserError(problem, place="stage2.start", remedy="set stage2.start=merged, or train stage 1 in the run")
    gpu = options.cluster.gpu
    for stage in ("stage1", "stage2"):
        wanted = getattr(params, stage).gpus
        if gpu and "train" in gpu.steps and wanted > gpu.count:
            problem = f"wants {wanted} GPUs, but the cluster profile gives a pod {gpu.count}"
            raise UserError(problem, place=f"{stage}.gpus", remedy="set gpu.count in the profile, or train.gpus")
