"""What ms-swift is set up with: the arguments of ``swift sft``, the template that encodes rows, and the batches.

ms-swift's template for native InternVL writes ChatML with a newline after ``<|im_end|>``, which InternVL2 was not
trained on, breaks Phi-3's markers, and opens media files by path. The template here writes what the model folder's own
chat template says, by the code that writes the prompts at evaluation. Its ``_encode`` and ``_preprocess_inputs`` are
the methods that ms-swift's documentation names for custom templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from swift.dataloader import BatchSamplerShard
from swift.template import TemplateMeta, register_template
from swift.template.templates.internvl import InternvlhfTemplate

from emoverse.config import TrainParams
from emoverse.prompt import Encoder, media_of, settings_of_model
from emoverse.training.rows import step_sizes

TEMPLATE: Final = "emoverse_internvl2"
_CACHE_BYTES: Final = 512 << 20
BUCKET: Final = 32
"""Tokens: rows that differ by less are mixed at random, so that batches are not the same in every epoch."""
_FIXED = {
    "model_type": "internvl",
    "template": TEMPLATE,
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


class Frames(Protocol):
    """Frames by reference: uint8 RGB (frames, height, width, 3), as `media.frames.FrameStore` returns."""

    def __getitem__(self, reference: str) -> Any:
        """Return the frames of one reference."""


_frames: Frames | None = None


def register_frames(frames: Frames) -> None:
    """Register TEMPLATE with ms-swift; from now on media references are looked up in ``frames``."""
    global _frames
    _frames = frames
    # The folder's chat template decides; ms-swift requires values for these fields.
    meta = TemplateMeta(
        TEMPLATE,
        prefix=[],
        prompt=["{{QUERY}}"],
        chat_sep=[],
        suffix=[["eos_token_id"]],
        template_cls=InternVL2Template,
    )
    register_template(meta, exist_ok=True)


class InternVL2Template(InternvlhfTemplate):  # type: ignore[misc]
    """Encode rows as InternVL2 was trained on them.

    A conversation becomes the token ids of the text that the original code writes for it, with ``<s>`` in front where
    the tokenizer has one; answers and the tokens that end them are learned.

    Encoded rows are cached up to 512 MiB, as encoding takes about 40 % of a tiny model's step and a row is the same in
    every epoch. With more data the first rows stay cached and the others are encoded each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cache: dict[str, dict[str, Any]] = {}
        self._free_bytes = _CACHE_BYTES

    @cached_property
    def encoder(self) -> Encoder:
        """Return the encoder of the model's folder; raise UserError when its chat format cannot be followed."""
        folder = Path(self.model_info.model_dir)
        return Encoder(folder, settings_of_model(folder))

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Encode a row of the dataset, or return it from the cache."""
        key = inputs.get("channel") if isinstance(inputs, dict) and self.mode == "train" else None
        if key is None or args or kwargs.get("return_template_inputs"):
            return dict(super().encode(inputs, *args, **kwargs))
        if key not in self._cache:
            encoded = dict(super().encode(inputs, **kwargs))
            pixels = encoded.get("pixel_values")
            size = 64 * len(encoded["input_ids"]) + (0 if pixels is None else pixels.numel() * pixels.element_size())
            if size > self._free_bytes:
                return encoded
            self._free_bytes -= size
            self._cache[key] = encoded
        return dict(self._cache[key])

    def _preprocess_inputs(self, inputs: Any) -> None:
        inputs.videos = [_frames_of(video) for video in inputs.videos]
        inputs.images = [_frames_of(image)[:1] for image in inputs.images]

    def _encode(self, inputs: Any) -> dict[str, Any]:
        turns = list(inputs.messages)
        if not self.is_training and turns[-1]["role"] == "assistant":
            turns.pop()  # to be answered, not learned
        system = [] if inputs.system is None else [{"role": "system", "content": inputs.system}]
        media = {"video": iter(inputs.videos), "image": iter(inputs.images)}
        shown = [next(media[kind]) for kind in media_of(turns)]
        ids, labels = self.encoder.conversation_ids([*system, *turns], [len(frames) for frames in shown])
        encoded = {"input_ids": ids, "labels": labels.tolist() if self.is_training else None, "loss_scale": None}
        if shown:
            pixels = np.concatenate([self.encoder.pixels(frames) for frames in shown])
            encoded["pixel_values"] = torch.from_numpy(pixels).to(self.model_info.torch_dtype)
        return encoded


def _frames_of(reference: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # ms-swift turns an image's path into {"bytes": None, "path": ...} and leaves a video's alone
    if _frames is None:
        raise ValueError("no frames: call register first")
    name = reference["path"] if isinstance(reference, dict) else reference
    return np.asarray(_frames[name])


class LengthBatches(BatchSamplerShard):  # type: ignore[misc]
    """Yield batches in random order, optionally of rows of like length; seed and epoch determine all of it.

    ms-swift's own sampler drops the rows that do not divide among several GPUs. Here every row is trained in every
    epoch, no batch is empty or larger than ``batch_size``, and every process takes the same number of steps.
    """

    def __init__(self, total_samples: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(total_samples, *args, **kwargs)
        self.rows: int = total_samples

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's row numbers, batch by batch; the ranks' batches of one step are of like length, too."""
        generator = torch.Generator()
        generator.manual_seed(self.curr_seed)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        if self.group_by_length:
            order.sort(key=lambda row: self.lengths[row] // BUCKET)  # stable: random within a bucket
        sizes = self._sizes()
        ends = list(accumulate(sizes))
        for number in torch.randperm(len(sizes), generator=generator).tolist():
            step = order[ends[number] - sizes[number] : ends[number]]
            # fewer rows than processes: as DistributedSampler does, some processes repeat a row
            yield step[self.rank :: self.world_size] or [step[self.rank % len(step)]]

    def _sizes(self) -> list[int]:
        sizes = step_sizes(self.rows, self.batch_size, self.world_size)
        whole = self.batch_size * self.world_size
        return [size for size in sizes if size == whole] if self.drop_last else sizes

    def __len__(self) -> int:
        """Return the number of batches of each rank."""
        return len(self._sizes())
