"""Answer prepared rows in batches: greedy replies, and log-probabilities of closed answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.inference.test_sets import Frames, Prepared, Preparer
from emoverse.progress import progress
from emoverse.prompt import Encoder, Ids, Row

Mask = NDArray[np.bool_]
Array = Any  # the backend's own: a torch tensor on its device, or a numpy array
EngineName = Literal["torch", "onnx"]
Device = Literal["auto", "cpu", "cuda"]
CACHE_BYTES: Final = 1 << 28  # features of MELD's whole test set at 8 x 256 tokens a clip would take tens of gigabytes


class Backend(Protocol):
    """Run the graphs of a model, and the few array operations that are cheaper where its arrays are."""

    def vision(self, pixels: NDArray[np.float32]) -> Array:
        """Return the features (n, tokens per frame, hidden) of frames (n, 3, height, width)."""

    def decode(
        self, ids: Ids, features: Array | None, mask: Mask, positions: Ids, past: Any, columns: Ids
    ) -> tuple[Array, Any]:
        """Return logits (batch, columns, vocabulary) at the columns asked for, and the KV cache with ``ids`` appended.

        Args:
            ids: (batch, new) tokens.
            features: (image tokens, hidden); they replace the image tokens in order.
            mask: (batch, 1, new, past + new), true where a token attends to another.
            positions: (batch, new).
            past: The KV cache, or None at the beginning.
            columns: Indices into ``new``.
        """

    def log_probabilities(self, logits: Array, columns: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return (batch, m): the log-probability of ``tokens[i]`` under the logits of column ``columns[i]``."""

    def argmax(self, logits: Array) -> Ids:
        """Return (batch, columns): the most likely token at each column, the lowest id where two are equal."""

    def finite(self, logits: Array) -> Mask:
        """Return (batch,): whether all logits of a row are finite."""

    def to_numpy(self, logits: Array) -> NDArray[np.float64]:
        """Return logits as numpy's float64."""

    def select_rows(self, past: Any, rows: Ids) -> Any:
        """Return the KV cache of some of the batch's rows."""

    def concatenate(self, features: Sequence[Array]) -> Array:
        """Return features of several clips, each (n, tokens, hidden), as one (image tokens, hidden)."""

    def split(self, features: Array, counts: Sequence[int]) -> list[Array]:
        """Return the features of ``counts[i]`` frames each."""

    def nbytes(self, features: Array) -> int:
        """Return the size of features in bytes."""


class AnswerTree:
    """Lay out the tokens of all allowed answers as one row behind a prompt.

    ``inputs`` are the tokens fed; an answer's last token predicts nothing, so it is left out. ``tokens[i]`` is
    predicted by logit column ``columns[i]`` and belongs to answer ``owner[i]``. Column 0 is the prompt's last token,
    column ``1 + j`` is ``inputs[j]``, which belongs to answer ``branch[j]``, ``offsets[j]`` tokens after the prompt.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        if not answers or not all(answers):
            raise ValueError("every answer needs at least one token")
        inputs: list[int] = []
        tokens: list[int] = []
        columns: list[int] = []
        owner: list[int] = []
        offsets: list[int] = []
        branch: list[int] = []
        for number, answer in enumerate(answers):
            columns += [0, *range(1 + len(inputs), len(inputs) + len(answer))]
            tokens += answer
            owner += [number] * len(answer)
            inputs += answer[:-1]
            offsets += range(len(answer) - 1)
            branch += [number] * (len(answer) - 1)
        self.answers = len(answers)
        self.inputs, self.offsets, self.branch = (np.array(x, np.int64) for x in (inputs, offsets, branch))
        self.tokens, self.columns, self.owner = (np.array(x, np.int64) for x in (tokens, columns, owner))
        self.last = np.array([index + 1 == len(answer) for answer in answers for index in range(len(answer))])

    def sums(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum (batch, tokens) over each answer's tokens, giving (batch, answers)."""
        sums: NDArray[np.float64] = steps @ (self.owner[:, None] == np.arange(self.answers)).astype(np.float64)
        return sums

    def choose(self, sums: NDArray[np.float64], most_likely: Ids, stop: Sequence[int]) -> Ids:
        """Return (batch,): the answer that greedy decoding gives, or the most likely one where it gives none.

        Greedy decoding gives an answer when each of its tokens is the most likely one where it is predicted, and a
        stop token comes after them. That answer need not have the largest sum.

        Args:
            sums: (batch, answers) log-probabilities.
            most_likely: (batch, columns), the most likely token at each logit column.
            stop: The token ids that end a reply.
        """
        predicted = most_likely[:, self.columns]
        matches = np.where(self.last, np.isin(predicted, list(stop)), predicted == self.tokens)
        greedy = np.stack([matches[:, self.owner == number].all(axis=1) for number in range(self.answers)], axis=1)
        chosen: Ids = np.where(greedy.any(axis=1), greedy.argmax(axis=1), sums.argmax(axis=1))
        return chosen


def left_padded(prompts: Sequence[Ids], pad: int) -> tuple[Ids, Ids]:
    """Return ids (batch, longest), padded on the left so that all prompts end together, and their lengths (batch,)."""
    lengths = np.array([len(ids) for ids in prompts], np.int64)
    ids = np.full((len(prompts), int(lengths.max())), pad, np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[len(row) - len(prompt) :] = prompt
    return ids, lengths


def prompt_mask(lengths: Ids, width: int) -> tuple[Mask, Ids]:
    """Return the causal mask (batch, 1, width, width) of left-padded prompts, and positions counting from their start.

    Padding attends to itself: a softmax over nothing would be NaN.
    """
    start = width - lengths[:, None]
    index = np.arange(width)[None]
    causal = index <= index.T
    mask = (causal[None] & (index >= start)[:, None, :]) | np.eye(width, dtype=np.bool_)[None]
    return mask[:, None], np.maximum(index - start, 0)


def tree_mask(lengths: Ids, width: int, tree: AnswerTree) -> tuple[Mask, Ids]:
    """Return mask (batch, 1, n, n) and positions (batch, n) of prompts with all answers behind them.

    ``n`` is ``width`` plus the tree's inputs. A token of an answer attends to the prompt and its own answer up to
    itself.
    """
    prompt, positions = prompt_mask(lengths, width)
    total = width + tree.inputs.size
    mask = np.zeros((len(lengths), 1, total, total), np.bool_)
    mask[:, :, :width, :width] = prompt
    mask[:, :, width:, :width] = (np.arange(width)[None] >= width - lengths[:, None])[:, None, None]
    same = tree.branch[:, None] == tree.branch[None]
    mask[:, :, width:, width:] = same & (tree.offsets[:, None] >= tree.offsets[None])
    return mask, np.concatenate([positions, lengths[:, None] + tree.offsets[None]], axis=1)


class FeatureCache:
    """Keep vision features by content, so a clip used by several tasks, or all blank clips, are encoded once.

    Not thread-safe.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._features: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def __contains__(self, digest: object) -> bool:
        """Return whether the features of the frames with this digest are cached."""
        return digest in self._features

    def __len__(self) -> int:
        """Return how many clips are cached."""
        return len(self._features)

    def features(self, prepared: Prepared) -> list[Any]:
        """Return the features (frames, tokens, hidden) of each row, computing those not cached in one batch."""
        cached = {digest: self._features[digest] for digest in prepared.digests if digest in self._features}
        new = {digest: pixels for digest, pixels in prepared.pixels.items() if digest not in cached}
        if new:
            computed = self.backend.vision(np.concatenate(list(new.values())))
            parts = self.backend.split(computed, [len(pixels) for pixels in new.values()])
            cached.update(zip(new, parts, strict=True))
        for digest in prepared.digests:
            self._add(digest, cached[digest])
        return [cached[digest] for digest in prepared.digests]

    def _add(self, digest: str, features: Any) -> None:
        if digest not in self._features:
            self._bytes += self.backend.nbytes(features)
        self._features[digest] = features
        self._features.move_to_end(digest)
        while self._bytes > CACHE_BYTES and len(self._features) > 1:
            self._bytes -= self.backend.nbytes(self._features.popitem(last=False)[1])


@dataclass(frozen=True)
class BatchRow:
    """One row of a batch: its index among all rows, its name, its prompt's ids, its clip's features."""

    index: int
    channel: str
    ids: Ids
    features: Array


class Engine:
    """Answer AMT rows with one model.

    ``label`` names the rows in the progress that is shown; empty shows none.

    Args:
        backend: Runs the model's graphs.
        encoder: Writes the model's prompts.
        frames: Frame reference -> uint8 RGB (n, height, width, 3).
        batch_size: Most rows run at once.
    """

    def __init__(self, backend: Backend, encoder: Encoder, frames: Frames, *, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        self.backend, self.encoder, self.batch_size = backend, encoder, batch_size
        self.label = ""
        self.cache = FeatureCache(backend)
        self.preparer = Preparer(encoder, frames)

    def score_answers(self, rows: Sequence[Row], answers: Sequence[str]) -> tuple[NDArray[np.float64], Ids]:
        """Return the log-probability of each answer after each prompt, and the answer chosen.

        The log-probability (rows, answers) is the sum over the answer's tokens in nats, its end token included: the
        probability that the model gives exactly this reply, so ``softmax`` over the answers is the posterior given
        that one of them is given. (A mean per token would favour long answers, whose last tokens are certain.) The
        answer chosen (rows,) is the greedy reply where that is an allowed answer, else the most likely one. All
        answers of a row share one prefill: they follow the prompt side by side, each attending to the prompt and
        itself only.

        Raises:
            UserError: A logit is NaN or infinite; the row is named.
        """
        tree = AnswerTree([self.encoder.answer_ids(answer) for answer in answers])
        result, chosen = np.zeros((len(rows), len(answers))), np.zeros(len(rows), np.int64)
        for batch in self.batches(rows):
            indices = [item.index for item in batch]
            logits = self._prefill(batch, tree)
            sums = tree.sums(self.backend.log_probabilities(logits, tree.columns, tree.tokens))
            result[indices] = sums
            chosen[indices] = tree.choose(sums, self.backend.argmax(logits), self.encoder.settings.stop)
        return result, chosen

    def _prefill(self, batch: Sequence[BatchRow], tree: AnswerTree) -> Array:
        """Return the logits at the tree's columns, all answers of all rows in one prefill."""
        ids, lengths = left_padded([item.ids for item in batch], self.encoder.settings.pad)
        width = ids.shape[1]
        mask, positions = tree_mask(lengths, width, tree)
        all_ids = np.concatenate([ids, np.tile(tree.inputs, (len(batch), 1))], axis=1)
        columns = np.arange(width - 1, width + tree.inputs.size)
        features = self.backend.concatenate([item.features for item in batch])
        logits, _ = self.backend.decode(all_ids, features, mask, positions, None, columns)
        self.check_finite(logits, batch)
        return logits

    def check_finite(self, logits: Array, batch: Sequence[BatchRow]) -> None:
        """Raise UserError, naming the row, where a logit is NaN or infinite."""
        finite = self.backend.finite(logits)
        if not finite.all():
            name = batch[int(np.flatnonzero(~finite)[0])].channel
            remedy = "check the model for NaN and infinite weights, or use a precision with a larger range"
            raise UserError("the model's logits are NaN or infinite", place=name, remedy=remedy)

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Return the greedy reply to each row, at most ``max_new_tokens`` tokens long."""
        return [self.encoder.text(tokens) for tokens in self.greedy_tokens(rows, max_new_tokens)]

    def greedy_tokens(self, rows: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy reply to each row as token ids, without its stop token."""
        replies: list[list[int]] = [[] for _ in rows]
        for batch in self.batches(rows):
            for item, tokens in zip(batch, self._decode_greedily(batch, max_new_tokens), strict=True):
                replies[item.index] = tokens
        return replies

    def _decode_greedily(self, batch: Sequence[BatchRow], limit: int) -> list[list[int]]:
        ids, lengths = left_padded([item.ids for item in batch], self.encoder.settings.pad)
        mask, positions = prompt_mask(lengths, ids.shape[1])
        features = self.backend.concatenate([item.features for item in batch])
        last = np.array([ids.shape[1] - 1])
        logits, past = self.backend.decode(ids, features, mask, positions, None, last)
        visible = np.arange(ids.shape[1])[None] >= ids.shape[1] - lengths[:, None]
        replies: list[list[int]] = [[] for _ in batch]
        active = np.arange(len(batch))
        for step in range(limit):
            self.check_finite(logits, [batch[row] for row in active.tolist()])
            tokens = self.backend.argmax(logits)[:, -1]
            running = ~np.isin(tokens, self.encoder.settings.stop)
            for row, token in zip(active[running], tokens[running], strict=True):
                replies[row].append(int(token))
            if step == limit - 1 or not running.any():
                break
            if not running.all():  # a finished row costs as much as a running one
                active, visible, tokens = active[running], visible[running], tokens[running]
                past = self.backend.select_rows(past, np.flatnonzero(running))
            visible = np.concatenate([visible, np.ones((len(active), 1), np.bool_)], axis=1)
            positions = (lengths[active] + step)[:, None]
            logits, past = self.backend.decode(
                tokens[:, None], None, visible[:, None, None, :], positions, past, np.array([0])
            )
        return replies

    def batches(self, rows: Sequence[Row]) -> Iterator[list[BatchRow]]:
        """Yield rows in even batches of at most ``batch_size``, with the features of their frames.

        The longest come first, so that little is padded and memory runs out at once if at all; rows of equal length
        keep the file's order.
        """
        order = sorted(range(len(rows)), key=lambda index: (-_characters(rows[index]), index))
        count = -(-len(order) // self.batch_size)
        groups = [group.tolist() for group in np.array_split(np.array(order, np.int64), count)] if order else []

        def encode(group: Sequence[int]) -> list[BatchRow]:
            prepared = self.preparer.prepare(rows, group, self.cache)
            names = [str(rows[index].get("channel", f"row {index}")) for index in group]
            features = self.cache.features(prepared)
            return [BatchRow(*item) for item in zip(group, names, prepared.ids, features, strict=True)]

        # One batch ahead in a thread: frames are read and encoded while the language model works on the last batch.
        shown = progress(self.label, len(rows), unit="rows", last=False)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames") as thread, shown as advance:
            upcoming = thread.submit(encode, groups[0]) if groups else None
            for following in [*groups[1:], None][: len(groups)]:
                assert upcoming is not None
                batch = upcoming.result()
                upcoming = thread.submit(encode, following) if following is not None else None
                yield batch
                advance(len(batch))


def _characters(row: Row) -> int:
    return sum(len(message["content"]) for message in row["messages"])


def open_engine(
    engine: EngineName,
    folder: Path,
    frames: Frames,
    *,
    batch_size: int,
    device: Device = "auto",
    threads: int | None = None,
) -> Engine:
    """Return an engine over a step's output folder.

    Args:
        engine: ``torch`` or ``onnx``.
        folder: Output of train or base-model, for ``onnx`` of export.
        frames: Frames by reference.
        batch_size: Most rows run at once.
        device: ``auto`` takes CUDA where available.
        threads: CPU threads, which decide the last bits of the results; None takes the library's default.

    Raises:
        UserError: The folder has no model of the engine's kind, or the engine cannot run here.
    """
    if engine == "onnx":
        from emoverse.inference.onnx_engine import onnx_engine

        return onnx_engine(folder, frames, batch_size=batch_size, device=device, threads=threads)
    from emoverse.inference.torch_engine import torch_engine

    return torch_engine(model_folder(folder), frames, batch_size=batch_size, device=device, threads=threads)


def model_folder(folder: Path) -> Path:
    """Return the model inside a step's output (``model/``), or the folder itself where it is a model.

    Raises:
        UserError: There is no config.json in either.
    """
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    remedy = "give the output folder of `emoverse train` or `emoverse base-model` (an export needs --engine onnx)"
    raise UserError("there is no model in it", place=str(folder), remedy=remedy)
