"""Ask a model: the likelihood of each allowed answer in one prefill, or a greedy reply. One interface, two engines.

An engine is this file's algorithm over a ``Backend`` of two functions, so that torch and onnxruntime see the very same
token ids, masks and positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.inference.encode import Encoder, Ids, Row
from emoverse.inference.features import FeatureCache
from emoverse.inference.prepare import Frames, Preparer
from emoverse.inference.tree import AnswerTree, left_padded, prompt_mask, tree_mask

Array = Any  # the backend's own: a torch tensor on its device, or a numpy array
Progress = Callable[[int], None]


class Backend(Protocol):
    """The two graphs of a model, and the few array operations that are cheaper where its arrays live."""

    def vision(self, pixels: NDArray[np.float32]) -> Array:
        """Return the features (n, tokens per frame, hidden) of frames (n, 3, height, width)."""

    def decode(
        self, ids: Ids, features: Array | None, mask: NDArray[np.bool_], positions: Ids, past: Any, columns: Ids
    ) -> tuple[Array, Any]:
        """Return logits (batch, columns, vocabulary) at the given columns, and the KV cache with ``ids`` appended.

        ``ids`` and ``positions`` are (batch, new), ``mask`` (batch, 1, new, past + new) says who sees whom.
        ``features`` (image tokens, hidden) replace the image tokens in order; ``past`` is None at the beginning.
        """

    def log_probabilities(self, logits: Array, columns: Ids, tokens: Ids) -> NDArray[np.float64]:
        """Return (batch, m): the log-probability of ``tokens[i]`` under the logits of column ``columns[i]``."""

    def best(self, logits: Array) -> Ids:
        """Return (batch, columns): the likeliest token at each column, the lowest id where two are equal."""

    def numbers(self, logits: Array) -> NDArray[np.float64]:
        """Return logits as numpy's float64."""

    def keep(self, past: Any, rows: Ids) -> Any:
        """Return the KV cache of some of the batch's rows."""

    def join(self, features: Sequence[Array]) -> Array:
        """Return features of several clips, each (n, tokens, hidden), as one (image tokens, hidden)."""

    def split(self, features: Array, counts: Sequence[int]) -> list[Array]:
        """Return the features of ``counts[i]`` frames each."""

    def size(self, features: Array) -> int:
        """Return the bytes that features take."""


@dataclass(frozen=True)
class Asked:
    """One row of a batch: its place among the rows asked, its prompt's ids, its clip's features."""

    index: int
    ids: Ids
    features: Array


class Engine:
    """Answer AMT rows with one model; ``frames`` maps a frame reference to uint8 RGB (n, height, width, 3)."""

    def __init__(self, backend: Backend, encoder: Encoder, frames: Frames, *, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        self.backend, self.encoder, self.batch_size = backend, encoder, batch_size
        self.features = FeatureCache(backend)
        self.preparer = Preparer(encoder, frames)

    def judged(
        self, rows: Sequence[Row], answers: Sequence[str], progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], Ids]:
        """Return (rows, answers): the log-probability of each answer, its end token included, after each prompt.

        It is the sum over the answer's tokens, in nats: the probability that the model gives exactly this reply, so
        ``softmax`` over the answers is the posterior given that one of them is given. (A mean per token would favour
        long answers, whose last tokens are certain.) Beside it (rows,): the answer taken, which is the greedy reply
        where that is an allowed answer, and else the likeliest one. All answers of a row share one prefill: they lie
        behind the prompt side by side, each seeing the prompt and itself alone.
        """
        tree = AnswerTree([self.encoder.answer_ids(answer) for answer in answers])
        result, chosen = np.zeros((len(rows), len(answers))), np.zeros(len(rows), np.int64)
        for batch in self.asked(rows, progress):
            places = [item.index for item in batch]
            logits = self._prefilled(batch, tree)
            sums = tree.sums(self.backend.log_probabilities(logits, tree.columns, tree.tokens))
            result[places] = sums
            chosen[places] = tree.chosen(sums, self.backend.best(logits), self.encoder.settings.stop)
        return result, chosen

    def _prefilled(self, batch: Sequence[Asked], tree: AnswerTree) -> Array:
        """Return the logits at the tree's columns, all answers of all rows in one prefill."""
        ids, lengths = left_padded([item.ids for item in batch], self.encoder.settings.pad)
        width = ids.shape[1]
        mask, positions = tree_mask(lengths, width, tree)
        whole = np.concatenate([ids, np.tile(tree.inputs, (len(batch), 1))], axis=1)
        columns = np.arange(width - 1, width + tree.inputs.size)
        features = self.backend.join([item.features for item in batch])
        logits, _ = self.backend.decode(whole, features, mask, positions, None, columns)
        return logits

    def generate(self, rows: Sequence[Row], max_new_tokens: int, progress: Progress | None = None) -> list[str]:
        """Return the greedy reply to each row, at most ``max_new_tokens`` tokens long."""
        replies = [""] * len(rows)
        for batch in self.asked(rows, progress):
            for item, tokens in zip(batch, self._greedy(batch, max_new_tokens), strict=True):
                replies[item.index] = self.encoder.text(tokens)
        return replies

    def greedy_tokens(self, rows: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy reply to each row as token ids, its stop token left out."""
        found: list[list[int]] = [[] for _ in rows]
        for batch in self.asked(rows, None):
            for item, tokens in zip(batch, self._greedy(batch, max_new_tokens), strict=True):
                found[item.index] = tokens
        return found

    def _greedy(self, batch: Sequence[Asked], limit: int) -> list[list[int]]:
        ids, lengths = left_padded([item.ids for item in batch], self.encoder.settings.pad)
        mask, positions = prompt_mask(lengths, ids.shape[1])
        features = self.backend.join([item.features for item in batch])
        last = np.array([ids.shape[1] - 1])
        logits, past = self.backend.decode(ids, features, mask, positions, None, last)
        seen = np.arange(ids.shape[1])[None] >= ids.shape[1] - lengths[:, None]
        tokens: list[list[int]] = [[] for _ in batch]
        alive = np.arange(len(batch))
        for step in range(limit):
            found = self.backend.best(logits)[:, -1]
            going = ~np.isin(found, self.encoder.settings.stop)
            for row, token in zip(alive[going], found[going], strict=True):
                tokens[row].append(int(token))
            if step == limit - 1 or not going.any():
                break
            if not going.all():  # a finished row costs as much as a live one
                alive, seen, found = alive[going], seen[going], found[going]
                past = self.backend.keep(past, np.flatnonzero(going))
            seen = np.concatenate([seen, np.ones((len(alive), 1), np.bool_)], axis=1)
            place = (lengths[alive] + step)[:, None]
            one = np.array([0])
            logits, past = self.backend.decode(found[:, None], None, seen[:, None, None, :], place, past, one)
        return tokens

    def asked(self, rows: Sequence[Row], progress: Progress | None = None) -> Iterator[list[Asked]]:
        """Yield rows in even batches of at most ``batch_size``, their frames looked at.

        The longest come first, so that little is padded and memory runs out at once if at all; among equals the order
        is the file's.
        """
        order = sorted(range(len(rows)), key=lambda index: (-_characters(rows[index]), index))
        count = -(-len(order) // self.batch_size)
        groups = [group.tolist() for group in np.array_split(np.array(order, np.int64), count)] if order else []

        def look(group: Sequence[int]) -> list[Asked]:
            ready = self.preparer.prepare(rows, group, self.features)
            seen = self.features.of(ready)
            return [Asked(*item) for item in zip(ready.indices, ready.ids, seen, strict=True)]

        # In a thread of its own, one batch ahead: reading and looking, while the language model works on the last one.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames") as thread:
            coming = thread.submit(look, groups[0]) if groups else None
            for number in range(len(groups)):
                assert coming is not None
                batch = coming.result()
                if number + 1 < len(groups):
                    coming = thread.submit(look, groups[number + 1])
                yield batch
                if progress:
                    progress(len(batch))


def _characters(row: Row) -> int:
    return sum(len(message["content"]) for message in row["messages"])
