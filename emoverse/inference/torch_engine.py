"""Run a model folder with transformers and torch, on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, InternVLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from emoverse.errors import UserError
from emoverse.inference.engine import Engine, Progress
from emoverse.inference.test_sets import Frames
from emoverse.prompt.encode import Encoder, Ids, Row
from emoverse.prompt.model_settings import settings_of_model


def load_model(folder: Path, device: str = "cpu") -> Any:
    """Load a native InternVL from safetensors: float32 on a CPU, the folder's own precision on CUDA.

    Raises UserError when there is no complete model; no code of the folder is ever run.
    """
    logging.disable_progress_bar()
    if not any(folder.glob("*.safetensors")):
        raise UserError("no safetensors weights", place=str(folder), remedy="train the model first")
    dtype: Any = torch.float32 if device == "cpu" else "auto"
    model = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
    )
    return model.to(device).eval().requires_grad_(False)


def torch_engine(folder: Path, frames: Frames, *, batch_size: int = 32, device: str | None = None) -> Engine:
    """Return an engine over a model folder; ``device`` is CUDA where there is one unless told otherwise."""
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    backend = TorchBackend(load_model(folder, where))
    print(f"torch on {where}, {str(backend.dtype).removeprefix('torch.')}", flush=True)
    return Engine(backend, Encoder(folder, settings_of_model(folder)), frames, batch_size=batch_size)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Turn "may see" into 0 and "may not" into minus infinity, once: attention would do it in every layer."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


class TorchBackend:
    """A loaded InternVL as an engine's backend; arrays stay on the model's device."""

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.language = NarrowModel(model.model.language_model)
        self.image_id = int(model.config.image_token_id)
        self.layer = model.config.vision_feature_layer
        self.strategy = model.config.vision_feature_select_strategy

    @torch.inference_mode()
    def vision(self, pixels: NDArray[np.float32]) -> torch.Tensor:
        """Return the projected features (n, tokens per frame, hidden)."""
        found = self.model.model.get_image_features(
            pixel_values=torch.from_numpy(pixels).to(self.device, self.dtype),
            vision_feature_layer=self.layer,
            vision_feature_select_strategy=self.strategy,
            return_dict=True,
        )
        features: torch.Tensor = found.pooler_output
        return features

    @torch.inference_mode()
    def decode(
        self, ids: Ids, features: Any, mask: NDArray[np.bool_], positions: Ids, past: Any, columns: Ids
    ) -> tuple[torch.Tensor, Any]:
        """Run the language model over new tokens; see ``Backend.decode``."""
        tokens = self._on(ids)
        embeds = self.model.get_input_embeddings()(tokens)
        if features is not None:
            places = (tokens == self.image_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(places, features.to(embeds.dtype))
        seen = additive(self._on(mask), embeds.dtype)
        hidden, past = self.language(embeds, seen, self._on(positions), past, self._on(columns))
        return self.model.lm_head(hidden), past

    @torch.inference_mode()
    def log_probabilities(self, logits: torch.Tensor, columns: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return the log-probability of each token at its column, (batch, m)."""
        wide = logits.float()
        norm = torch.logsumexp(wide, dim=-1)
        where, which = self._on(columns), self._on(tokens)
        found = wide[:, where, which] - norm[:, where]
        return np.asarray(found.double().cpu().numpy(), np.float64)

    @torch.inference_mode()
    def best(self, logits: torch.Tensor) -> Ids:
        """Return the likeliest token at each column."""
        return np.asarray(logits.argmax(dim=-1).cpu().numpy(), np.int64)

    def numbers(self, logits: torch.Tensor) -> NDArray[np.float64]:
        """Return logits as numpy's float64."""
        return np.asarray(logits.double().cpu().numpy(), np.float64)

    @torch.inference_mode()
    def keep(self, past: Any, rows: Ids) -> Any:
        """Return the cache with some of its rows."""
        past.batch_select_indices(self._on(rows))
        return past

    def join(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the clips' features as one (image tokens, hidden)."""
        return torch.cat([item.flatten(0, 1) for item in features])

    def split(self, features: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
        """Return each clip's own copy, so that dropping one frees its memory."""
        return [part.clone() for part in torch.split(features, list(counts))]

    def size(self, features: torch.Tensor) -> int:
        """Return the bytes that features take."""
        return features.numel() * features.element_size()

    def _on(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


EngineName = Literal["torch", "onnx", "vllm"]


class Answers(Protocol):
    """What asks a model, whatever runs it: ``Engine`` says what its functions return."""

    def judged(
        self, rows: Sequence[Row], answers: Sequence[str], progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], Ids]:
        """Return (rows, answers) log-probabilities, and (rows,) the answer taken."""

    def generate(self, rows: Sequence[Row], max_new_tokens: int, progress: Progress | None = None) -> list[str]:
        """Return the greedy reply to each row."""


def open_engine(engine: EngineName, folder: Path, frames: Frames, *, batch_size: int) -> Answers:
    """Return an engine over a step's output folder and frames by reference.

    Raises UserError when the folder holds no model of the engine's kind, or the engine cannot run here.
    """
    if engine == "vllm":
        from emoverse.inference.vllm_engine import vllm_engine

        return vllm_engine(model_folder(folder), frames, batch_size=batch_size)
    if engine == "onnx":
        from emoverse.inference.onnx_engine import onnx_engine

        return onnx_engine(folder, frames, batch_size=batch_size)
    return torch_engine(model_folder(folder), frames, batch_size=batch_size)


def model_folder(folder: Path) -> Path:
    """Return the model inside a step's output (``model/``), or the folder itself where it is a model."""
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place
    remedy = "give the folder of `emoverse train` or `emoverse base-model` (an export needs --engine onnx)"
    raise UserError("it holds no model", place=str(folder), remedy=remedy)


_NAME: Final = "emoverse_sdpa"
_PARTS: Final = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
# The backbones of InternVL2 as transformers has them; their layers are x + attention(norm(x)), then x + mlp(norm(x)).
BACKBONES: Final = ("qwen2", "llama", "phi3")


def _attention(
    module: torch.nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, columns: Any = None, **more: Any
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does, given ``columns`` from these queries alone; zeros stand at all others."""
    if columns is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return whole, None
    few, mask = query.index_select(2, columns), attention_mask.index_select(2, columns)
    found, _ = sdpa_attention_forward(module, few, key, value, mask, **more)
    whole = found.new_zeros(len(query), query.shape[2], *found.shape[2:])
    return whole.index_copy_(1, columns, found), None


class NarrowModel:
    """A language model of transformers, run layer by layer; other backbones than ``BACKBONES`` are run whole."""

    def __init__(self, language_model: Any) -> None:
        self.model = language_model
        self.known = language_model.config.model_type in BACKBONES and all(
            hasattr(layer, part) for layer in language_model.layers for part in _PARTS
        )
        if self.known:
            AttentionInterface.register(_NAME, _attention)
            AttentionMaskInterface.register(_NAME, sdpa_mask)
            language_model.config._attn_implementation = _NAME

    def __call__(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, past: Any, columns: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """Return the normed hidden states (batch, columns, hidden) and the cache with the new tokens appended.

        ``mask`` (batch, 1, new, past + new) is added to the scores; ``past`` is None at the beginning.
        """
        if not self.known:
            out = self.model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )
            return out.last_hidden_state.index_select(1, columns), out.past_key_values
        past = DynamicCache(config=self.model.config) if past is None else past
        shared = {
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": past,
            "use_cache": True,
            "position_embeddings": self.model.rotary_emb(embeds, position_ids=positions),
        }
        hidden, layers = embeds, self.model.layers
        for layer in layers[:-1]:
            hidden = layer(hidden, **shared)
        last = layers[-1]
        told, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), columns=columns, **shared)
        hidden = hidden.index_select(1, columns) + told.index_select(1, columns)
        hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
        return self.model.norm(hidden), past
