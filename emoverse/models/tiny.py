"""Build and pretrain the tiny InternVL that the sample is trained on: InternVL2's architecture with small sizes.

It is pretrained in plain torch from a seed: the vision tower on drawn faces, then the language model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from emoverse.config import MediaParams
from emoverse.models.pretraining_data import FEELINGS, Example, Face
from emoverse.progress import progress

WIDTH: Final = 64
VISION_LAYERS: Final = 2
TEXT_LAYERS: Final = 4
ROPE_THETA: Final = 100.0
"""Base of the rotary embedding. Qwen2's 1,000,000 is for long contexts: of a head's 16 dimensions it leaves two to tell
neighbouring tokens apart."""
EMBEDDING_STD: Final = 0.5
RESIDUAL_SCALE: Final = 0.1
"""Scale of the matrices that write to the residual stream, attention's and the MLP's output."""
OUTPUT_SCALE: Final = 0.25
"""Of the embedding, to the output layer's first weights: logits of about 1."""
PREVIOUS_STRENGTH: Final = 4.0
DOWNSAMPLE: Final = 0.5
MEAN: Final = 0.5
STD: Final = 0.25
"""How pixels in 0..1 are normalised; not ImageNet's 0.22-0.23 a channel, as the sample's frames are grey."""
GRID: Final = 4
"""Patches along a side: InternVL2 has 32; pixel shuffle halves it, so a frame becomes GRID² / 4 tokens."""
VISION_LEARNING_RATE: Final = 3e-3
VISION_BATCH: Final = 128
LANGUAGE_LEARNING_RATE: Final = 1e-2
MATRIX_LEARNING_RATE: Final = 2e-2
"""Muon's, for the matrices of the language model's layers; AdamW trains embeddings, biases and norms."""
LANGUAGE_BATCH: Final = 16
QUESTION_WEIGHT: Final = 0.2
"""Weight of the loss on question tokens (answers: 1); it trains the words that no answer contains."""
QUESTION_SHARE: Final = 0.3
"""Share of a question's tokens in the loss; the others cost time and add little."""
VOCABULARY: Final = 2816
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>",
    "</ref>", "<box>", "</box>", "<video>",
)  # fmt: skip
"""InternVL2-1B's added tokens, and <video>, which transformers' processor requires to be one token."""
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text into words before merging."""
_TEMPLATE: Final = Path(__file__).with_name("tiny_chat_template.jinja")


def tokens_per_frame() -> int:
    """Return how many image tokens a frame becomes."""
    return int(GRID * GRID * DOWNSAMPLE**2)


def build_model(tokenizer: Any, media: MediaParams, seed: int) -> Any:
    """Build the model with weights drawn from a seed; ``media.size`` is the side of its frames in pixels.

    Every matrix is drawn with standard deviation 1/sqrt(fan in): transformers' 0.02 suits wide models, and a vision
    tower this narrow does not learn from it. The language model begins with what copying needs, which takes training
    from other weights longest: what a layer adds is small beside the token's own embedding, the output layer begins as
    the embedding, and three heads of the first layer attend to the tokens before (`_attend_to_previous`).

    Raises:
        ValueError: The frame does not divide into patches.
    """
    if media.size % GRID:
        raise ValueError(f"frames of {media.size} px do not divide into {GRID} x {GRID} patches")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(_config(tokenizer, media.size))
        for name, tensor in model.named_parameters():
            _draw(name, tensor)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.get_input_embeddings().weight * OUTPUT_SCALE)
            _attend_to_previous(model.model.language_model.layers[0].self_attn)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, do_sample=False
    )
    return model.float()


def _draw(name: str, tensor: Any) -> None:
    with torch.no_grad():
        if "embed_tokens" in name:
            tensor.normal_(0.0, EMBEDDING_STD)
        elif "position_embeddings" in name or "cls_token" in name:
            tensor.normal_(0.0, 0.02)
        elif tensor.ndim >= 2:
            scale = RESIDUAL_SCALE if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            tensor.normal_(0.0, scale / math.sqrt(tensor[0].numel()))


def _attend_to_previous(attention: Any) -> None:
    """Let head h attend mostly to the token h + 1 places before, for the first three heads.

    Constant queries and keys, set by the biases, become a function of the distance alone once the rotary embedding has
    turned them: the sum of cos(frequency * (distance - wanted)) over the three highest frequencies. Looking something
    up in a context is built on such heads (induction heads, arXiv 2209.11895).
    """
    head_dim, half = attention.head_dim, attention.head_dim // 2
    frequencies = ROPE_THETA ** (-torch.arange(half) / half)
    strength = torch.where(torch.arange(half) < 3, PREVIOUS_STRENGTH, 0.0)
    keys, queries = attention.k_proj.bias.view(-1, head_dim), attention.q_proj.bias.view(-1, head_dim)
    weights = attention.q_proj.weight.view(-1, head_dim, attention.q_proj.in_features)
    for head in range(3):
        keys[head // attention.num_key_value_groups, :half] = strength
        queries[head, :half] = strength * torch.cos(frequencies * (head + 1))
        queries[head, half:] = -strength * torch.sin(frequencies * (head + 1))
        weights[head] *= 0.1  # at first the distance decides, not the tokens


def _config(tokenizer: Any, size: int) -> Any:
    vision = {
        "architectures": ["InternVLVisionModel"],
        "hidden_size": WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": WIDTH * 4,
        "image_size": [size, size],
        "patch_size": [size // GRID, size // GRID],
        "attention_bias": True,
        "layer_scale_init_value": 1.0,
        "use_mean_pooling": True,
    }
    text = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": WIDTH * 3,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return InternVLConfig(
        dtype="float32",
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens_per_frame(),
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=False,
    )


def build_processor(tokenizer: Any, media: MediaParams) -> Any:
    """Build the processor: one tile per image and every frame of a video, as frames have the model's resolution."""
    pixels = {
        "size": {"height": media.size, "width": media.size},
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**pixels, crop_to_patches=True, min_patches=1, max_patches=1),
        video_processor=InternVLVideoProcessor(**pixels, do_sample_frames=False),
        tokenizer=tokenizer,
        image_seq_length=tokens_per_frame(),
        chat_template=tokenizer.chat_template,
    )


def save_folder(model: Any, processor: Any, folder: Path) -> None:
    """Write a model folder that `from_pretrained` reads offline: weights, tokenizer, chat template, processors."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """Train a byte-level BPE of ``size`` entries, special tokens included, and return it as transformers' tokenizer.

    The same texts in the same order give the same tokenizer. Any text can be encoded: all 256 bytes are included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        chat_template=_TEMPLATE.read_text("utf-8"),
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )


def pretrain_vision(model: Any, faces: Sequence[Face], epochs: int, seed: int) -> list[float]:
    """Train vision tower and projector to predict units and feelings of single frames; return the loss of each step.

    Two linear heads predict 13 intensities and 7 feelings from the mean of a frame's projected tokens and are
    discarded afterwards. Half the frames are mirrored.
    """
    import torch

    torch.manual_seed(seed)
    pixels = torch.tensor(np.stack([face.frames for face in faces]))
    units = torch.tensor(np.stack([face.units for face in faces]), dtype=torch.float32) / 2.0
    feeling = torch.tensor([FEELINGS.index(face.feeling) if face.feeling else -100 for face in faces])
    width = model.config.text_config.hidden_size
    heads = torch.nn.ModuleList([torch.nn.Linear(width, units.shape[-1]), torch.nn.Linear(width, len(FEELINGS))])
    parts = (model.model.vision_tower, model.model.multi_modal_projector, heads)
    rng = np.random.default_rng([seed, 0xE7E5])
    batches = [batch for _ in range(epochs) for batch in _frames((len(pixels), pixels.shape[1]), rng)]
    parameters = [p for part in parts for p in part.parameters()]
    trainer = _Trainer([{"params": parameters, "lr": VISION_LEARNING_RATE}], len(batches))
    losses = []
    with progress("base-model: vision tower", len(batches), unit="steps") as advance:
        for clip, frame in batches:
            normalised = _normalised(pixels[clip, frame])
            mirrored = torch.tensor(rng.random(len(clip)) < 0.5)[:, None, None, None]
            features = _features(model, torch.where(mirrored, normalised.flip(-1), normalised)).mean(dim=1)
            # a clip's first frame comes before its expression
            target = feeling[clip].masked_fill(torch.tensor(frame) == 0, -100)
            loss = 3.0 * torch.nn.functional.mse_loss(heads[0](features), units[clip, frame])
            losses.append(trainer.step(loss + 0.3 * torch.nn.functional.cross_entropy(heads[1](features), target)))
            advance()
    return losses


def _normalised(frames: Any) -> Any:
    """Normalise uint8 (..., size, size, 3) as the processor does (tiny.MEAN, tiny.STD), channels first."""
    return ((frames.float() / 255.0 - MEAN) / STD).movedim(-1, -3)


def _frames(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield batches of (clip numbers, frame numbers) that go once through all frames."""
    order = rng.permutation(shape[0] * shape[1])
    for start in range(0, len(order), VISION_BATCH):
        part = order[start : start + VISION_BATCH]
        yield part // shape[1], part % shape[1]


def pretrain_language(
    model: Any, tokenizer: Any, faces: Sequence[Face], examples: Sequence[Example], seed: int
) -> list[float]:
    """Train language model and projector on the examples with the vision tower frozen; return the loss of each step.

    Each example is seen once, in about its order: a batch holds examples of similar length.
    """
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        clips = [face.frames for face in faces]
        clips.append(np.full_like(clips[0], 128))  # mid-grey comes last: BLANK is -1
        seen = torch.stack([_tower(model, _normalised(torch.tensor(clip))) for clip in clips])
    tokens = model.config.image_seq_length
    encoded = _encode(examples, tokenizer, tokens, seen.shape[1])
    batches = list(_batches([len(ids) for ids, _ in encoded], seed))
    matrices = [p for p in model.model.language_model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [
        p for part in (model.model.language_model, model.lm_head) for p in part.parameters() if id(p) not in known
    ]
    groups = [
        {"params": others, "lr": LANGUAGE_LEARNING_RATE},
        {"params": list(model.model.multi_modal_projector.parameters()), "lr": VISION_LEARNING_RATE},
    ]
    trainer = _Trainer(groups, len(batches), matrices)
    model.train()
    losses = []
    with progress("base-model: language model", len(batches), unit="steps") as advance:
        for batch in batches:
            features = [_part(seen, examples[i]) for i in batch if examples[i].face is not None]
            loss = _loss(model, [encoded[i] for i in batch], features, tokenizer.pad_token_id)
            losses.append(trainer.step(loss))
            advance()
    model.eval()
    return losses


class _Trainer:
    """Train groups of parameters with AdamW: cosine with 5 % warm-up, gradients clipped at norm 1.

    Args:
        groups: Parameter groups of AdamW (betas 0.9, 0.95, weight decay 0.05).
        steps: Number of steps.
        matrices: Parameters that Muon trains instead: from the same examples it learns to copy and to look up in far
            fewer steps.
    """

    def __init__(self, groups: list[dict[str, Any]], steps: int, matrices: Sequence[Any] = ()) -> None:
        import torch

        self.parameters = [*matrices, *(parameter for group in groups for parameter in group["params"])]
        self.optimizers: list[Any] = [torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.05)]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, momentum=0.95, weight_decay=0.0)
            self.optimizers.append(muon)
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps))
            for optimizer in self.optimizers
        ]

    def step(self, loss: Any) -> float:
        import torch

        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def _cosine(step: int, steps: int) -> float:
    warm = max(1, int(0.05 * steps))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _tower(model: Any, pixels: Any) -> Any:
    """Return the vision tower's patches, shuffled to (frames, tokens, 4 x width): what the projector reads."""
    patches = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    side = math.isqrt(patches.shape[1])
    shuffled = model.model.pixel_shuffle(patches.unflatten(1, (side, side)), model.config.downsample_ratio)
    return shuffled.flatten(1, 2)


def _features(model: Any, pixels: Any) -> Any:
    return model.model.multi_modal_projector(_tower(model, pixels))


def _part(seen: Any, example: Example) -> Any:
    frames = seen[example.face]
    return frames if example.still is None else frames[example.still : example.still + 1]


def _encode(
    examples: Sequence[Example], tokenizer: Any, image_tokens: int, n_frames: int
) -> list[tuple[list[int], int]]:
    """Return each example's ids, prompt and answer, and its prompt's length."""
    prompts = [
        _prompt(example, "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>\n", n_frames) for example in examples
    ]
    answers = [example.answer + "<|im_end|>" for example in examples]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompt_ids, answer_ids, strict=True)]


def _prompt(example: Example, context: str, n_frames: int) -> str:
    media = "" if example.face is None else context
    if example.face is not None and example.still is None:
        media = "".join(f"Frame{i + 1}: {context}" for i in range(n_frames))
    system = f"<|im_start|>system\n{example.system}<|im_end|>"
    return f"{system}<|im_start|>user\n{media}{example.question}<|im_end|><|im_start|>assistant\n"


def _batches(lengths: Sequence[int], seed: int) -> Iterator[list[int]]:
    """Yield batches of example numbers of similar length, in an order drawn from the seed."""
    rng = np.random.default_rng([seed, 0xBA7C])
    pool = LANGUAGE_BATCH * 16
    for first in range(0, len(lengths), pool):
        pooled = sorted(range(first, min(first + pool, len(lengths))), key=lambda k: lengths[k])
        batches = [pooled[i : i + LANGUAGE_BATCH] for i in range(0, len(pooled), LANGUAGE_BATCH)]
        for i in rng.permutation(len(batches)):
            yield batches[i]


def _loss(model: Any, encoded: Sequence[tuple[list[int], int]], features: list[Any], pad: int) -> Any:
    """Return the loss of one batch; padding is on the right and attention is causal, so no row sees it."""
    import torch

    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.full((len(encoded), longest), pad)
    weights = torch.zeros(ids.shape)
    for row, (tokens, start) in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weights[row, :start] = QUESTION_WEIGHT
        weights[row, start : len(tokens)] = 1.0
    weights[
        (weights == QUESTION_WEIGHT) & (torch.rand(ids.shape) > QUESTION_SHARE) | (ids == model.config.image_token_id)
    ] = 0.0
    embedded = model.get_input_embeddings()(ids)
    if features:
        projected = model.model.multi_modal_projector(torch.cat(features))
        mask = (ids == model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
        embedded = embedded.masked_scatter(mask, projected)
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    scored = weights[:, 1:] > 0
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[:, :-1][scored]), ids[:, 1:][scored], reduction="none"
    )
    answer = weights[:, 1:][scored] == 1.0
    return losses[answer].mean() + QUESTION_WEIGHT * losses[~answer].mean()
