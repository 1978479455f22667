"""Answer prepared rows in batches: greedy replies, and likelihoods of closed answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.inference.test_sets import Prepared

if TYPE_CHECKING:
    pass
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from emoverse.inference.test_sets import Frames, Preparer
from emoverse.prompt.encode import Encoder, Ids, Row

LabelIds = NDArray[np.int64]
Mask = NDArray[np.bool_]


class AnswerTree:
    """The tokens of all allowed answers as one row behind a prompt, and where each is predicted.

    ``inputs`` are the tokens fed (an answer's last token predicts nothing, so it is not). ``tokens[i]`` is predicted
    by logit column ``columns[i]`` and belongs to answer ``owner[i]``; column 0 is the prompt's last token, column
    ``1 + j`` is ``inputs[j]``, which belongs to answer ``branch[j]`` and stands ``offsets[j]`` after the prompt.
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
        self.last = np.array([place + 1 == len(answer) for answer in answers for place in range(len(answer))])

    def sums(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum (batch, tokens) over each answer's tokens, giving (batch, answers)."""
        sums: NDArray[np.float64] = steps @ (self.owner[:, None] == np.arange(self.answers)).astype(np.float64)
        return sums

    def chosen(self, sums: NDArray[np.float64], likeliest: LabelIds, stop: Sequence[int]) -> LabelIds:
        """Return (batch,): the answer that free greedy decoding gives, or the likeliest one where it gives no answer.

        ``likeliest`` (batch, columns) is the likeliest of all tokens at each logit column. Greedy decoding gives an
        answer when each of its tokens is the likeliest where it is predicted, and a stop token after them; that
        answer need not have the largest sum, as greedy decoding never takes a step back.
        """
        told = likeliest[:, self.columns]
        taken = np.where(self.last, np.isin(told, list(stop)), told == self.tokens)
        whole = np.stack([taken[:, self.owner == number].all(axis=1) for number in range(self.answers)], axis=1)
        found: LabelIds = np.where(whole.any(axis=1), whole.argmax(axis=1), sums.argmax(axis=1))
        return found


def left_padded(prompts: Sequence[LabelIds], pad: int) -> tuple[LabelIds, LabelIds]:
    """Return ids (batch, longest), padded on the left so that all prompts end together, and their lengths (batch,)."""
    lengths = np.array([len(ids) for ids in prompts], np.int64)
    ids = np.full((len(prompts), int(lengths.max())), pad, np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[len(row) - len(prompt) :] = prompt
    return ids, lengths


def prompt_mask(lengths: LabelIds, width: int) -> tuple[Mask, LabelIds]:
    """Return the causal mask (batch, 1, width, width) of left-padded prompts, and positions counting from their start.

    Padding sees itself alone: a row that sees nothing would be a softmax over nothing, that is, not a number.
    """
    start = width - lengths[:, None]
    place = np.arange(width)[None]
    causal = place <= place.T
    mask = (causal[None] & (place >= start)[:, None, :]) | np.eye(width, dtype=np.bool_)[None]
    return mask[:, None], np.maximum(place - start, 0)


def tree_mask(lengths: LabelIds, width: int, tree: AnswerTree) -> tuple[Mask, LabelIds]:
    """Return mask (batch, 1, n, n) and positions (batch, n) of prompts with all answers behind them.

    ``n`` is ``width`` plus the tree's inputs. A token of an answer sees the prompt and its own answer up to itself.
    """
    prompt, positions = prompt_mask(lengths, width)
    more = tree.inputs.size
    mask = np.zeros((len(lengths), 1, width + more, width + more), np.bool_)
    mask[:, :, :width, :width] = prompt
    mask[:, :, width:, :width] = (np.arange(width)[None] >= width - lengths[:, None])[:, None, None]
    same = tree.branch[:, None] == tree.branch[None]
    mask[:, :, width:, width:] = same & (tree.offsets[:, None] >= tree.offsets[None])
    return mask, np.concatenate([positions, lengths[:, None] + tree.offsets[None]], axis=1)


KEPT_BYTES: Final = 1 << 28  # MELD's test set in 8 x 256 tokens would be tens of gigabytes


class FeatureCache:
    """Vision features by content, so that a clip serving several tasks, or all blank clips, are looked at once.

    One thread at a time may use it.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0

    def __contains__(self, digest: object) -> bool:
        """Tell whether the features of these frames are at hand."""
        return digest in self._kept

    def of(self, prepared: Prepared) -> list[Any]:
        """Return the features (frames, tokens, hidden) of each row, computing those not at hand in one batch."""
        at_hand = {digest: self._kept[digest] for digest in prepared.digests if digest in self._kept}
        new = {digest: pixels for digest, pixels in prepared.pixels.items() if digest not in at_hand}
        if new:
            found = self.backend.vision(np.concatenate(list(new.values())))
            parts = self.backend.split(found, [len(pixels) for pixels in new.values()])
            at_hand.update(zip(new, parts, strict=True))
        for digest in prepared.digests:
            self._keep(digest, at_hand[digest])
        return [at_hand[digest] for digest in prepared.digests]

    def _keep(self, digest: str, features: Any) -> None:
        if digest not in self._kept:
            self._bytes += self.backend.size(features)
        self._kept[digest] = features
        self._kept.move_to_end(digest)
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self.backend.size(self._kept.popitem(last=False)[1])


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
