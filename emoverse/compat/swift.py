"""Private interfaces of ms-swift that training needs.

- ``SwiftSft._get_dataset``: the only place to give ms-swift rows that are already in memory. Its loader would write a
  copy of them to a cache in the home folder.
- ``swift.trainers.mixin.BatchSamplerShard``: the trainer has no argument for its batch sampler, and its own drops the
  rows that do not divide among several GPUs.
- ``ModelLoader.default_trust_remote_code``: no argument turns it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from datasets import Dataset
from swift.model.register import ModelLoader
from swift.pipelines import SwiftSft
from swift.trainers import mixin
from transformers import PrinterCallback

Rows = Sequence[Mapping[str, Any]]


class InMemorySft(SwiftSft):  # type: ignore[misc]
    """Train with ms-swift on rows in memory, without remote code.

    ``prepare`` receives the trainer before it starts.
    """

    def __init__(
        self, arguments: list[str], rows: Rows, lengths: Sequence[int], prepare: Callable[[Any], None]
    ) -> None:
        """Load the model.

        Args:
            arguments: Command line of ``swift sft``.
            rows: In ms-swift's form.
            lengths: Tokens of each row.
            prepare: Adds callbacks to the trainer.
        """
        ModelLoader.default_trust_remote_code = False
        self._dataset, self._prepare = dataset_of(rows, lengths), prepare
        super().__init__(arguments)

    def _get_dataset(self) -> tuple[Any, None]:
        return self._dataset, None

    def train(self, trainer: Any) -> Any:
        """Run the trainer; its own progress lines are removed."""
        self.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        self._prepare(trainer)
        return super().train(trainer)


def dataset_of(rows: Rows, lengths: Sequence[int]) -> Any:
    """Return rows as ms-swift's preprocessors leave them."""

    def standard(row: Mapping[str, Any], length: int) -> dict[str, Any]:
        images = [{"bytes": None, "path": image} for image in row["images"]]
        # ms-swift makes the column it groups rows by only when it encodes all rows beforehand
        return {**row, "images": images, "lengths": length}

    return Dataset.from_list([standard(*pair) for pair in zip(rows, lengths, strict=True)])


def batch_sampler(sampler: Any | None) -> AbstractContextManager[None]:
    """Make ms-swift's trainer take its batches from the class ``sampler``; None leaves ms-swift's own."""
    return nullcontext() if sampler is None else _patched(sampler)


@contextmanager
def _patched(sampler: Any) -> Iterator[None]:
    original: Any = mixin.BatchSamplerShard
    mixin.BatchSamplerShard = sampler
    try:
        yield
    finally:
        mixin.BatchSamplerShard = original
