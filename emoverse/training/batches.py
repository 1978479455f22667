"""Put rows of like length into one batch, so that little is padded.

ms-swift's own grouping sorts within random fifths or less of a small data set: in stage 2 a few ECPE rows, five times
as long as others, then stretch a quarter of all batches, and two thirds of the time goes into padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from swift.dataloader import BatchSamplerShard
from swift.trainers import mixin

BUCKET: Final = 32
"""Tokens: rows that differ by less are mixed at random, so that batches are not the same in every epoch."""


class LengthBatches(BatchSamplerShard):  # type: ignore[misc]
    """Batches of rows of like length, in random order; all of it follows from the seed and the epoch.

    Without lengths the rows are mixed whole. On several GPUs every row is trained too, where ms-swift would leave out
    those that do not fill a step: a last step with fewer rows than GPUs has some rows twice.
    """

    def __init__(self, total_samples: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(total_samples, *args, **kwargs)
        self.rows, self.whole = total_samples, int(self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's row numbers, batch by batch; the ranks' batches of one step are of like length, too."""
        generator = torch.Generator()
        generator.manual_seed(self.curr_seed)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        if self.lengths is not None:
            order.sort(key=lambda row: self.lengths[row] // BUCKET)  # stable: random within a bucket
        steps = [order[start : start + self.whole] for start in range(0, len(order), self.whole)]
        if self.drop_last and len(steps[-1]) < self.whole:
            steps.pop()
        steps[-1] += (order * self.world_size)[: max(0, self.world_size - len(steps[-1]))]
        for number in torch.randperm(len(steps), generator=generator).tolist():
            yield steps[number][self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return how many batches each rank gets."""
        return self.rows // self.whole if self.drop_last else -(-self.rows // self.whole)


@contextmanager
def our_batches() -> Iterator[None]:
    """Make ms-swift's trainer take its batches from LengthBatches; it has no argument for it."""
    before: Any = mixin.BatchSamplerShard
    mixin.BatchSamplerShard = LengthBatches
    try:
        yield
    finally:
        mixin.BatchSamplerShard = before
