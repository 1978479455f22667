"""Pretrain the tiny model in plain torch from a seed: the vision tower on drawn faces, then the language model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from emoverse.models.pretraining_data import FEELINGS, Example, Face
from emoverse.models.tiny import MEAN, STD
from emoverse.progress import progress

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
