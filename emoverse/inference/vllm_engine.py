"""Run a model folder with vLLM, where it is installed and a GPU is there: the torch engine's interface.

vLLM puts the tokens of an image where a prompt has one image token, start and end marks included, so prompts go in as
token ids with one image token a frame. An answer's likelihood comes from ``prompt_logprobs`` of prompt and answer
together. vLLM reads no cached prefix for such a request (vllm/v1/core), so each answer costs a prefill of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoverse.errors import UserError
from emoverse.inference.test_sets import Frames, reference_of
from emoverse.prompt.encode import Encoder, Ids, Row
from emoverse.prompt.model_settings import settings_of_model

Progress = Callable[[int], None]
FRAMES: Final = 8  # InternVL2's; vLLM must be told how many images a prompt may have
ROWS: Final = 128  # rows given to vLLM at a time: it makes its own batches, but all their frames are in memory


class Llm(Protocol):
    """What we use of ``vllm.LLM``."""

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool) -> Sequence[Any]:
        """Return one ``RequestOutput`` a prompt, in order."""


def vllm_engine(folder: Path, frames: Frames, *, batch_size: int = 32) -> VllmEngine:
    """Return an engine over a model folder; raise UserError where vLLM or a GPU is missing."""
    remedy = "install vllm in an environment of its own, or set evaluate.engine to torch"
    if importlib.util.find_spec("vllm") is None:
        raise UserError("vllm is not installed", place="evaluate.engine", remedy=remedy)
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "vllm needs a CUDA GPU, and there is none", place="evaluate.engine", remedy="set evaluate.engine to torch"
        )
    import vllm

    def opened(images: int) -> Llm:
        limits = {"image": images, "video": 0}
        made: Llm = vllm.LLM(
            model=str(folder),
            dtype="auto",
            trust_remote_code=False,
            generation_config="vllm",  # not the folder's own: temperature and penalties are ours to set
            limit_mm_per_prompt=limits,
            seed=0,
        )
        return made

    print(f"vllm on {torch.cuda.get_device_name()}", flush=True)
    return VllmEngine(opened, vllm.SamplingParams, encoder_of(folder), frames, rows_at_once=max(ROWS, batch_size))


def encoder_of(folder: Path) -> Encoder:
    """Return a model's encoder that gives each frame one image token between its marks."""
    return Encoder(folder, replace(settings_of_model(folder), tokens_per_frame=1))


class VllmEngine:
    """Answer AMT rows with vLLM; ``opened(images)`` starts it for prompts of at most so many frames.

    ``sampling`` is ``vllm.SamplingParams``. Rows go in ``rows_at_once`` at a time.
    """

    def __init__(
        self,
        opened: Callable[[int], Llm],
        sampling: Callable[..., Any],
        encoder: Encoder,
        frames: Frames,
        *,
        rows_at_once: int = ROWS,
    ) -> None:
        self.encoder, self.frames, self.rows_at_once = encoder, frames, rows_at_once
        self._opened, self._sampling = opened, sampling
        self._llm: Llm | None = None
        self._images = 0
        own = encoder.settings
        marks = [encoder.tokenizer.token_to_id(mark) for mark in (own.image_start, own.image_end)]
        self._marks = np.array([mark for mark in marks if mark is not None], np.int64)

    def judged(
        self, rows: Sequence[Row], answers: Sequence[str], progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], Ids]:
        """Return (rows, answers) log-probabilities and (rows,) the answer taken; see ``Engine.judged``."""
        tails = [self.encoder.answer_ids(answer) for answer in answers]
        sums, greedy = np.zeros((len(rows), len(tails))), np.zeros((len(rows), len(tails)), np.bool_)
        how = self._sampling(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        for places, prompts in self._asked(rows, progress):
            whole = [with_answer(prompt, tail) for prompt in prompts for tail in tails]
            told = iter(self._generate(whole, how))
            for place in places:
                for number, tail in enumerate(tails):
                    steps = next(told).prompt_logprobs
                    sums[place, number], greedy[place, number] = read_answer(steps, tail, self.encoder.settings.stop)
        return sums, np.where(greedy.any(axis=1), greedy.argmax(axis=1), sums.argmax(axis=1))

    def generate(self, rows: Sequence[Row], max_new_tokens: int, progress: Progress | None = None) -> list[str]:
        """Return the greedy reply to each row, at most ``max_new_tokens`` tokens long."""
        replies = [""] * len(rows)
        stop = list(self.encoder.settings.stop)
        how = self._sampling(max_tokens=max_new_tokens, temperature=0.0, stop_token_ids=stop, detokenize=False)
        for places, prompts in self._asked(rows, progress):
            for place, found in zip(places, self._generate(prompts, how), strict=True):
                tokens = [token for token in found.outputs[0].token_ids if token not in stop]
                replies[place] = self.encoder.text(tokens)
        return replies

    def _asked(self, rows: Sequence[Row], progress: Progress | None) -> Iterator[tuple[range, list[dict[str, Any]]]]:
        for start in range(0, len(rows), self.rows_at_once):
            places = range(start, min(len(rows), start + self.rows_at_once))
            yield places, self.prompts([rows[place] for place in places])
            if progress:
                progress(len(places))

    def prompts(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return vLLM's ``TokensPrompt`` of each row: token ids with one image token a frame, and the frames."""
        shown = [self.frames[reference_of(row)] for row in rows]
        found = self.encoder.prompt_ids(rows, [len(frames) for frames in shown])
        pictures = [[Image.fromarray(frame) for frame in frames] for frames in shown]
        return [
            {"prompt_token_ids": self._unmarked(ids).tolist(), "multi_modal_data": {"image": images}}
            for ids, images in zip(found, pictures, strict=True)
        ]

    def _unmarked(self, ids: Ids) -> Ids:
        """Leave out the marks around each image token, which vLLM writes itself; words cannot hold them."""
        kept: Ids = ids[~np.isin(ids, self._marks)]
        return kept

    def _generate(self, prompts: Sequence[dict[str, Any]], how: Any) -> Sequence[Any]:
        images = max((len(prompt["multi_modal_data"]["image"]) for prompt in prompts), default=0)
        if self._llm is None or images > self._images:
            self._llm, self._images = None, max(FRAMES, images)  # the old one gives its memory back first
            self._llm = self._opened(self._images)
        return self._llm.generate(list(prompts), how, use_tqdm=False)


def with_answer(prompt: Mapping[str, Any], tail: Sequence[int]) -> dict[str, Any]:
    """Return a prompt with an answer's tokens behind it."""
    return {**prompt, "prompt_token_ids": [*prompt["prompt_token_ids"], *tail]}


def read_answer(
    steps: Sequence[Mapping[int, Any] | None], tail: Sequence[int], stop: Sequence[int]
) -> tuple[float, bool]:
    """Return an answer's log-probability, and whether greedy decoding would give it.

    ``steps`` is ``RequestOutput.prompt_logprobs``: for each token of the prompt, images spelled out, a mapping from
    token id to ``Logprob`` (``logprob`` in nats, ``rank`` from 1) that holds the token itself and the likeliest one.
    The answer is the last ``len(tail)`` of them; greedy decoding ends it with any of the ``stop`` tokens.
    """
    total, greedy = 0.0, True
    for place, (token, found) in enumerate(zip(tail, steps[-len(tail) :], strict=True)):
        if found is None:
            raise ValueError("vllm gave no log-probabilities for an answer's token")
        total += float(found[token].logprob)
        best = {one for one, value in found.items() if value.rank == 1}
        greedy &= bool(best & set(stop)) if place + 1 == len(tail) else token in best
    return total, greedy
