"""Translate a stage's parameters into ms-swift's arguments."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from emoverse.config import TrainParams
from emoverse.training.swift_template import NAME

_FIXED = {
    "model_type": "internvl",
    "template": NAME,
    "use_hf": "true",
    "check_model": "false",
    "add_version": "false",
    "report_to": "none",
    "strict": "true",  # without it a bad row is replaced by another at random
    "truncation_strategy": "delete",
    "split_dataset_ratio": "0",
    "lazy_tokenize": "true",
    "dataloader_persistent_workers": "false",  # kept workers would shift dropout's draws after a resume
    "lr_scheduler_type": "cosine",
    "adam_beta1": "0.9",
    "adam_beta2": "0.95",
    "max_grad_norm": "1.0",
    "save_strategy": "steps",
    "save_total_limit": "2",
    "eval_strategy": "no",
    "load_args": "false",
    "disable_tqdm": "true",
    "logging_first_step": "true",
}


def swift_arguments(
    params: TrainParams,
    *,
    model: Path,
    dataset: Path,
    output: Path,
    resume: Path | None,
    log_every: int,
    cpu: bool,
    adapter: Path | None = None,
) -> list[str]:
    """Return the command line of ``swift sft`` for these parameters.

    By default (the paper's architecture figure) the vision encoder is frozen; the projector and LoRA in the language
    model are trained.

    Args:
        params: The stage's parameters.
        model: The model folder.
        dataset: A name only; the rows are given in memory.
        output: Folder for checkpoints.
        resume: A complete checkpoint to resume from, or None.
        log_every: Steps between two entries of the log.
        cpu: Run on the CPU; otherwise ms-swift takes the device it finds.
        adapter: An adapter of the model to train further, or None.
    """
    flags: dict[str, object] = {
        **_FIXED,
        "model": model,
        "dataset": dataset,
        "output_dir": output,
        "torch_dtype": params.dtype,
        "fp16": str(params.dtype == "float16").lower(),  # by default ms-swift computes in fp16 for float32, too
        "bf16": str(params.dtype == "bfloat16").lower(),
        "tuner_type": params.tuner,
        "freeze_llm": "false",
        "freeze_vit": str(not params.train_vision).lower(),
        "freeze_aligner": str(not _in_adapter(params)).lower(),
        "attn_impl": attention(params, cpu=cpu),
        "gradient_checkpointing": str(params.gradient_checkpointing).lower(),
        "group_by_length": str(params.group_by_length).lower(),  # by LengthBatches
        "dataloader_num_workers": params.workers,
        "seed": params.seed,
        "full_determinism": str(params.deterministic).lower(),
        "data_seed": params.seed,
        "num_train_epochs": params.epochs,
        "learning_rate": params.learning_rate,
        "per_device_train_batch_size": params.batch_size,
        "gradient_accumulation_steps": params.accumulation,
        "max_length": params.max_length,
        "warmup_ratio": params.warmup,
        "weight_decay": params.weight_decay,
        "save_steps": params.save_every,
        "logging_steps": log_every,
        "use_cpu": str(cpu).lower(),
    }
    if params.tuner == "lora":
        flags |= {
            "target_modules": "all-linear",
            "lora_rank": params.lora_rank,
            "lora_alpha": params.lora_alpha,
            "lora_dropout": params.lora_dropout,
        }
        if params.projector == "full":
            flags["modules_to_save"] = "multi_modal_projector"
    if params.processes > 1:
        flags["ddp_find_unused_parameters"] = "false"
    if params.sharding != "none":
        flags["deepspeed"] = params.sharding  # ms-swift's own settings of that name
    if adapter is not None and resume is None:
        flags["adapters"] = adapter
    if resume is not None:
        flags["resume_from_checkpoint"] = resume
    return [argument for name, value in flags.items() for argument in (f"--{name}", str(value))]


def attention(params: TrainParams, *, cpu: bool) -> str:
    """Return the attention implementation; ``auto`` is flash attention where it can run, else sdpa."""
    if params.attention != "auto":
        return params.attention
    available = not cpu and params.dtype != "float32" and find_spec("flash_attn") is not None
    return "flash_attention_2" if available else "sdpa"


def _in_adapter(params: TrainParams) -> bool:
    # With LoRA, ms-swift's freeze_aligner says whether the projector gets an adapter; trained whole, it gets none.
    return params.projector == ("lora" if params.tuner == "lora" else "full")
