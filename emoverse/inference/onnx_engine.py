"""Run an exported folder with onnxruntime: neither torch nor transformers is imported."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from emoverse.errors import UserError, did_you_mean
from emoverse.inference.engine import Device, Engine, Mask
from emoverse.inference.test_sets import Frames
from emoverse.prompt import Encoder, Ids, Settings

GRAPHS: Final = ("vision.onnx", "embed.onnx", "decoder.onnx")
SETTINGS: Final = "settings.json"
Past = list[Any]  # OrtValues, on the device that runs the decoder
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_NO_CUDA: Final = (
    "install onnxruntime-gpu and its CUDA libraries on a machine with a GPU, or set the device to auto or cpu"
)


def onnx_engine(
    folder: Path,
    frames: Frames,
    *,
    batch_size: int = 32,
    device: Device = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> Engine:
    """Return an engine over the output folder of export.

    Args:
        folder: Output of export.
        frames: Frames by reference.
        batch_size: Most rows run at once.
        device: ``auto`` takes CUDA where available.
        precision: One of the export's; None takes its first.
        threads: CPU threads; None takes OMP_NUM_THREADS as torch does, or all cores.

    Raises:
        UserError: The export has no such precision, a graph or the settings are missing or broken, or CUDA is required
            and cannot be used.
    """
    for name in (*GRAPHS, SETTINGS):
        if not (folder / name).is_file():
            remedy = "give the folder of `emoverse export`, or --engine torch"
            raise UserError(f"{name} is missing", place=str(folder), remedy=remedy)
    try:
        settings_json = json.loads((folder / SETTINGS).read_text("utf-8"))
        settings = Settings.from_json(settings_json["encoder"])
        graphs = _graph_folder(folder, settings_json["precision"], precision)
        backend = OnnxBackend(graphs, settings_json["decoder"], settings, device, threads)
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not the settings of this version ({type(error).__name__}: {error})"
        raise UserError(problem, place=str(folder / SETTINGS), remedy="export the model again") from error
    print(f"onnxruntime on {backend.device}", flush=True)
    return Engine(backend, Encoder(folder, settings), frames, batch_size=batch_size)


def _graph_folder(folder: Path, precisions: Sequence[str], precision: str | None) -> Path:
    """Return the folder of a precision: the export's first is in the folder itself, the others below it."""
    if precision is None or precision == precisions[0]:
        return folder
    if precision not in precisions:
        remedy = did_you_mean(precision, precisions)
        raise UserError(f"there are no {precision} graphs in it", place=str(folder), remedy=remedy)
    return folder / precision


def providers(device: Device = "auto") -> list[str]:
    """Return the execution providers to use: CUDA where onnxruntime and the machine support it, then the CPU.

    Raises:
        UserError: ``device`` is cuda, and there is no GPU or this onnxruntime is built without CUDA.
    """
    if device == "cpu":
        return [_CPU]
    missing = "this onnxruntime has no CUDA" if _CUDA not in onnxruntime.get_available_providers() else None
    missing = missing or (None if _gpu_count() else "the driver reports no GPU")
    if missing is None:
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries as torch's packages bring them
        return [_CUDA, _CPU]
    if device == "cuda":
        raise UserError(missing, place="device cuda", remedy=_NO_CUDA)
    return [_CPU]


def _gpu_count() -> int:
    """Return how many GPUs the driver reports; onnxruntime lists CUDA on machines without any and fails later."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def _session(path: Path, chosen: Sequence[str], threads: int) -> Any:
    """Open a graph.

    onnxruntime refuses weights beside a graph that leave its folder. Behind links, as in DVC's cache or Hugging Face's
    blobs, they do, so they are given to it as a memory map.
    """
    # a provider that fails to load prints three screens; one line says so
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    weights = path.with_name(f"{path.name}.data")
    if not weights.is_file() or not (weights.is_symlink() or path.is_symlink()):
        return onnxruntime.InferenceSession(path, options, providers=chosen)
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        options.add_external_initializers_from_files_in_memory([weights.name], [mapped], [len(mapped)])
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=chosen)


class OnnxBackend:
    """Three graphs as an engine's backend; arrays are numpy's, the KV cache stays where the decoder runs.

    Args:
        folder: The graphs of one precision.
        decoder: Sizes of the decoder, from the export's settings.json.
        settings: Settings of the exported model.
        device: ``auto`` takes CUDA where available.
        threads: CPU threads; None takes OMP_NUM_THREADS, or all cores.
    """

    def __init__(
        self,
        folder: Path,
        decoder: dict[str, Any],
        settings: Settings,
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        # onnxruntime by default starts a thread on every core
        environment = os.environ.get("OMP_NUM_THREADS", "")
        threads = threads or (int(environment) if environment.isdecimal() else 0)
        chosen = providers(device)
        try:
            sessions = [_session(folder / name, chosen, threads) for name in GRAPHS]
        except Exception as error:  # onnxruntime's own exceptions share no base class
            problem = f"onnxruntime cannot open the graphs ({str(error).splitlines()[0]})"
            raise UserError(problem, place=str(folder), remedy="export the model again") from error
        self._vision, self._embed, self._decoder = sessions
        cuda = _CUDA in self._decoder.get_providers()
        if _CUDA in chosen and not cuda:
            problem = "onnxruntime could not load its CUDA libraries"
            if device == "cuda":
                raise UserError(problem, place="device cuda", remedy=_NO_CUDA)
            print(f"{problem}: it runs on the CPU", file=sys.stderr, flush=True)
        self.device, self._ort_device = ("CUDA", "cuda") if cuda else ("the CPU", "cpu")
        self._image_id = int(decoder["image_id"])
        self._empty = (int(decoder["key_value_heads"]), 0, int(decoder["head_size"]))
        layers = range(int(decoder["layers"]))
        self._past_names = [f"past_{part}_{layer}" for layer in layers for part in ("key", "value")]
        self._present_names = [name.replace("past", "present") for name in self._past_names]

    def vision(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Return the projected features (n, tokens per frame, hidden)."""
        return np.asarray(self._vision.run(None, {"pixels": pixels})[0])

    def decode(
        self, ids: Ids, features: NDArray[Any] | None, mask: Mask, positions: Ids, past: Any, columns: Ids
    ) -> tuple[NDArray[Any], Past]:
        """Run the decoder over new tokens; see ``Backend.decode``."""
        embeds = self._embed.run(None, {"ids": ids})[0]
        if features is not None:
            embeds[ids == self._image_id] = features
        if past is None:
            past = [self._ort_value(np.zeros((len(ids), *self._empty), embeds.dtype))] * len(self._past_names)
        binding = self._decoder.io_binding()
        feed = {"embeds": embeds, "mask": mask, "positions": positions, "columns": columns}
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, value in zip(self._past_names, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in self._present_names:  # its size is known only once it is computed, so onnxruntime allocates it
            binding.bind_output(name, self._ort_device)
        self._decoder.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        return logits.numpy(), present

    def _ort_value(self, array: NDArray[Any]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, self._ort_device, 0)

    def log_probabilities(self, logits: NDArray[Any], columns: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return the log-probability of each token at its column, (batch, m)."""
        logits64 = logits.astype(np.float64)
        top = logits64.max(axis=-1, keepdims=True)
        norm = top[..., 0] + np.log(np.exp(logits64 - top).sum(axis=-1))
        result: NDArray[np.float64] = logits64[:, columns, tokens] - norm[:, columns]
        return result

    def argmax(self, logits: NDArray[Any]) -> Ids:
        """Return the most likely token at each column."""
        return np.asarray(logits.argmax(axis=-1), np.int64)

    def finite(self, logits: NDArray[Any]) -> Mask:
        """Return whether all logits of each row are finite."""
        finite: Mask = np.isfinite(logits).all(axis=(1, 2))
        return finite

    def to_numpy(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Return logits as float64."""
        return logits.astype(np.float64)

    def select_rows(self, past: Past, rows: Ids) -> Past:
        """Return the cache with some of its rows."""
        # through host memory: this happens when a reply ends, not at every token
        return [self._ort_value(np.ascontiguousarray(part.numpy()[rows])) for part in past]

    def concatenate(self, features: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the clips' features as one (image tokens, hidden)."""
        return np.concatenate([item.reshape(-1, item.shape[-1]) for item in features])

    def split(self, features: NDArray[Any], counts: Sequence[int]) -> list[NDArray[Any]]:
        """Return each clip's own copy, so that dropping one frees its memory."""
        return [part.copy() for part in np.split(features, np.cumsum(counts)[:-1])]

    def nbytes(self, features: NDArray[Any]) -> int:
        """Return the size of features in bytes."""
        return int(features.nbytes)
