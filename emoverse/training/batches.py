"""Divide rows into batches of like length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from swift.dataloader import BatchSamplerShard

BUCKET: Final = 32
"""Tokens: rows that differ by less are mixed at random, so that batches are not the same in every epoch."""


class LengthBatches(BatchSamplerShard):  # type: ignore[misc]
    """Yield batches in random order, optionally of rows of like length; seed and epoch determine all of it.

    ms-swift's own sampler drops the rows that do not divide among several GPUs. Here a last step with fewer rows than
    processes joins the one before it, so every row is trained once and no process waits.
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
        """Return the number of batches of each rank."""
        whole: int = self.batch_size * self.world_size
        count, left = divmod(self.rows, whole)
        own_step = count == 0 or left >= self.world_size  # the remaining rows fill a small step of their own
        return count + int(bool(left) and own_step and not self.drop_last)
