"""Lay prompts and answers side by side: left padding, masks and positions, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
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

    def chosen(self, sums: NDArray[np.float64], likeliest: Ids, stop: Sequence[int]) -> Ids:
        """Return (batch,): the answer that free greedy decoding gives, or the likeliest one where it gives no answer.

        ``likeliest`` (batch, columns) is the likeliest of all tokens at each logit column. Greedy decoding gives an
        answer when each of its tokens is the likeliest where it is predicted, and a stop token after them; that
        answer need not have the largest sum, as greedy decoding never takes a step back.
        """
        told = likeliest[:, self.columns]
        taken = np.where(self.last, np.isin(told, list(stop)), told == self.tokens)
        whole = np.stack([taken[:, self.owner == number].all(axis=1) for number in range(self.answers)], axis=1)
        found: Ids = np.where(whole.any(axis=1), whole.argmax(axis=1), sums.argmax(axis=1))
        return found


def left_padded(prompts: Sequence[Ids], pad: int) -> tuple[Ids, Ids]:
    """Return ids (batch, longest), padded on the left so that all prompts end together, and their lengths (batch,)."""
    lengths = np.array([len(ids) for ids in prompts], np.int64)
    ids = np.full((len(prompts), int(lengths.max())), pad, np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[len(row) - len(prompt) :] = prompt
    return ids, lengths


def prompt_mask(lengths: Ids, width: int) -> tuple[Mask, Ids]:
    """Return the causal mask (batch, 1, width, width) of left-padded prompts, and positions counting from their start.

    Padding sees itself alone: a row that sees nothing would be a softmax over nothing, that is, not a number.
    """
    start = width - lengths[:, None]
    place = np.arange(width)[None]
    causal = place <= place.T
    mask = (causal[None] & (place >= start)[:, None, :]) | np.eye(width, dtype=np.bool_)[None]
    return mask[:, None], np.maximum(place - start, 0)


def tree_mask(lengths: Ids, width: int, tree: AnswerTree) -> tuple[Mask, Ids]:
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
