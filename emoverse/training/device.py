"""Refuse parameters that this machine cannot train with, before any work is spent."""

from __future__ import annotations

from importlib.util import find_spec

from emoverse.errors import UserError
from emoverse.params import TrainParams


def check_device(params: TrainParams) -> None:
    """Raise UserError when there are fewer GPUs than ``gpus`` says, or a package that the parameters need is missing.

    Where there is no GPU at all, several processes may share the CPU.
    """
    if params.sharding != "none" and find_spec("deepspeed") is None:
        problem = f"sharding is {params.sharding}, which needs the package deepspeed"
        raise UserError(
            problem,
            place="params.yaml",
            remedy="install it (`pip install 'emoverse[deepspeed]'`), or set train.sharding to none",
        )
    import torch  # takes seconds: first what refuses an input without it

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and gpus < params.gpus:
        problem = f"gpus is {params.gpus}, this machine has {gpus}"
        raise UserError(problem, place="params.yaml", remedy="set train.gpus to what there is")
    if params.attention == "flash_attention_2":
        lacks = {
            "a GPU": not gpus,
            "the package flash-attn": find_spec("flash_attn") is None,
            "dtype bfloat16 or float16": params.dtype == "float32",
        }
        if lacking := [name for name, is_so in lacks.items() if is_so]:
            problem = f"attention is flash_attention_2, which needs {' and '.join(lacking)}"
            raise UserError(
                problem, place="params.yaml", remedy="set train.attention to auto: it is taken where it runs"
            )
