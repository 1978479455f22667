"""Divide rows into batches of like length, and skip the mask of their padding where nothing sees it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

import torch
from swift.dataloader import BatchSamplerShard

from emoverse.compat.transformers import attention_of, has_experts
from emoverse.training.rows import step_sizes

BUCKET: Final = 32
"""Tokens: rows that differ by less are mixed at random, so that batches are not the same in every epoch."""


class LengthBatches(BatchSamplerShard):  # type: ignore[misc]
    """Yield batches in random order, optionally of rows of like length; seed and epoch determine all of it.

    ms-swift's own sampler drops the rows that do not divide among several GPUs. Here every row is trained in every
    epoch, no batch is empty or larger than ``batch_size``, and every process takes the same number of steps.
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
        sizes = self._sizes()
        ends = list(accumulate(sizes))
        for number in torch.randperm(len(sizes), generator=generator).tolist():
            step = order[ends[number] - sizes[number] : ends[number]]
            # fewer rows than processes: as DistributedSampler does, some processes repeat a row
            yield step[self.rank :: self.world_size] or [step[self.rank % len(step)]]

    def _sizes(self) -> list[int]:
        sizes = step_sizes(self.rows, self.batch_size, self.world_size)
        whole = self.batch_size * self.world_size
        return [size for size in sizes if size == whole] if self.drop_last else sizes

    def __len__(self) -> int:
        """Return the number of batches of each rank."""
        return len(self._sizes())


def sees_no_padding(config: Any, mask: torch.Tensor) -> bool:
    """Return whether training on a batch gives the same with a mask of ones.

    Causal attention looks back, so no row sees padding on its right, and the loss leaves padding out. Without a mask
    torch's attention takes its causal kernel, which computes half as much; flash attention needs the mask to remove
    the padding, and a mixture of experts to balance its experts over real tokens.

    Args:
        config: The model's.
        mask: (rows, tokens), 1 for tokens and 0 for padding.
    """
    if attention_of(config) != "sdpa" or has_experts(config):
        return False
    return bool((mask[:, 1:] <= mask[:, :-1]).all())
