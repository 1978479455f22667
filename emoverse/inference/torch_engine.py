"""Run a model folder with transformers and torch, on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import InternVLForConditionalGeneration
from transformers.utils import logging

from emoverse.errors import UserError
from emoverse.inference.encode import Encoder, Ids
from emoverse.inference.engine import Engine
from emoverse.inference.narrow import NarrowModel
from emoverse.inference.prepare import Frames
from emoverse.inference.settings import settings_of_model


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
