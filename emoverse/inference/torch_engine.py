"""Run a model folder with transformers and torch, on CUDA where available."""

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
from emoverse.inference.engine import Device, Engine, Mask
from emoverse.inference.test_sets import Frames
from emoverse.prompt import Encoder, Ids, settings_of_model


def load_model(folder: Path, device: str = "cpu") -> Any:
    """Load a native InternVL from safetensors: float32 on a CPU, the folder's own precision on CUDA.

    No code of the folder is ever run.

    Raises:
        UserError: There are no weights, or a weight is NaN or infinite; the tensor is named.
    """
    logging.disable_progress_bar()
    if not any(folder.glob("*.safetensors")):
        raise UserError("no safetensors weights", place=str(folder), remedy="train the model first")
    dtype: Any = torch.float32 if device == "cpu" else "auto"
    model = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, attn_implementation="sdpa"
    )
    model = model.to(device).eval().requires_grad_(False)
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            remedy = "train or convert the model again"
            raise UserError(f"weight {name} has NaN or infinite values", place=str(folder), remedy=remedy)
    return model


def torch_engine(
    folder: Path, frames: Frames, *, batch_size: int = 32, device: Device = "auto", threads: int | None = None
) -> Engine:
    """Return an engine over a model folder.

    Args:
        folder: The model.
        frames: Frames by reference.
        batch_size: Most rows run at once.
        device: ``auto`` takes CUDA where available.
        threads: CPU threads; None leaves torch's number.

    Raises:
        UserError: There is no model, or ``device`` is cuda and torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        remedy = "run it on a machine with a GPU, or set the device to auto or cpu"
        raise UserError("torch finds no GPU", place="device cuda", remedy=remedy)
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    backend = TorchBackend(load_model(folder, chosen))
    print(f"torch on {chosen}, {str(backend.dtype).removeprefix('torch.')}", flush=True)
    return Engine(backend, Encoder(folder, settings_of_model(folder)), frames, batch_size=batch_size)


class TorchBackend:
    """A loaded InternVL as an engine's backend; arrays stay on the model's device."""

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.image_id = int(model.config.image_token_id)
        self.layer = model.config.vision_feature_layer
        self.strategy = model.config.vision_feature_select_strategy

    @torch.inference_mode()
    def vision(self, pixels: NDArray[np.float32]) -> torch.Tensor:
        """Return the projected features (n, tokens per frame, hidden)."""
        output = self.model.model.get_image_features(
            pixel_values=torch.from_numpy(pixels).to(self.device, self.dtype),
            vision_feature_layer=self.layer,
            vision_feature_select_strategy=self.strategy,
            return_dict=True,
        )
        features: torch.Tensor = output.pooler_output
        return features

    @torch.inference_mode()
    def decode(
        self, ids: Ids, features: Any, mask: Mask, positions: Ids, past: Any, columns: Ids
    ) -> tuple[torch.Tensor, Any]:
        """Run the language model over new tokens; see ``Backend.decode``."""
        tokens = self._tensor(ids)
        embeds = self.model.get_input_embeddings()(tokens)
        if features is not None:
            is_image = (tokens == self.image_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(is_image, features.to(embeds.dtype))
        # made additive once: attention would do it in every layer
        visible = self._tensor(mask)
        additive = torch.zeros(visible.shape, dtype=embeds.dtype, device=self.device)
        additive.masked_fill_(~visible, float("-inf"))
        output = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=additive,
            position_ids=self._tensor(positions),
            past_key_values=past,
            use_cache=True,
        )
        hidden = output.last_hidden_state.index_select(1, self._tensor(columns))
        return self.model.lm_head(hidden), output.past_key_values

    @torch.inference_mode()
    def log_probabilities(self, logits: torch.Tensor, columns: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return the log-probability of each token at its column, (batch, m)."""
        logits32 = logits.float()
        norm = torch.logsumexp(logits32, dim=-1)
        column, token = self._tensor(columns), self._tensor(tokens)
        result = logits32[:, column, token] - norm[:, column]
        return np.asarray(result.double().cpu().numpy(), np.float64)

    @torch.inference_mode()
    def argmax(self, logits: torch.Tensor) -> Ids:
        """Return the most likely token at each column."""
        return np.asarray(logits.argmax(dim=-1).cpu().numpy(), np.int64)

    @torch.inference_mode()
    def finite(self, logits: torch.Tensor) -> Mask:
        """Return whether all logits of each row are finite."""
        return np.asarray(torch.isfinite(logits).flatten(1).all(dim=1).cpu().numpy(), np.bool_)

    def to_numpy(self, logits: torch.Tensor) -> NDArray[np.float64]:
        """Return logits as numpy's float64."""
        return np.asarray(logits.double().cpu().numpy(), np.float64)

    @torch.inference_mode()
    def select_rows(self, past: Any, rows: Ids) -> Any:
        """Return the cache with some of its rows."""
        past.batch_select_indices(self._tensor(rows))
        return past

    def concatenate(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the clips' features as one (image tokens, hidden)."""
        return torch.cat([item.flatten(0, 1) for item in features])

    def split(self, features: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
        """Return each clip's own copy, so that dropping one frees its memory."""
        return [part.clone() for part in torch.split(features, list(counts))]

    def nbytes(self, features: torch.Tensor) -> int:
        """Return the size of features in bytes."""
        return features.numel() * features.element_size()

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
