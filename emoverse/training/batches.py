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
    """Batches in random order, of rows of like length if wanted; all of it follows from the seed and the epoch.

    ms-swift's own sampler leaves out the rows that do not divide among the processes of several GPUs. Here a last step
    with fewer rows than processes joins the one before it, so every row is trained once and no process waits.
    """

    def __init__(self, total_samples: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(total_samples, *args, **kwargs)
        self.rows: int = total_samples

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's row numbers, batch by batch; the ranks' batches of one step are of like length, too."""
        generator = torch.Generator()
        generator.manual_seed(self.curr_seed)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        if self.group_by_length:
            order.sort(key=lambda row: self.lengths[row] // BUCKET)  # stable: random within a bucket
        whole = self.batch_size * self.world_size
        count = len(self)
        steps = [order[whole * n : whole * (n + 1)] for n in range(count)]
        if not self.drop_last:
            steps[-1] += order[whole * count :]
        for number in torch.randperm(count, generator=generator).tolist():
            yield steps[number][self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return how many batches each rank gets."""
        whole: int = self.batch_size * self.world_size
        count, left = divmod(self.rows, whole)
        alone = count == 0 or left >= self.world_size  # left rows that fill a step of their own, if a small one
        return count + int(bool(left) and alone and not self.drop_last)


@contextmanager
def our_batches() -> Iterator[None]:
    """Make ms-swift's trainer take its batches from LengthBatches; it has no argument for it."""
    before: Any = mixin.BatchSamplerShard
    mixin.BatchSamplerShard = LengthBatches
    try:
        yield
    finally:
        mixin.BatchSamplerShard = before
