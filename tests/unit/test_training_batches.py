"""Batches of like length: every row once an epoch, little padding, another order in every epoch."""

import random

import pytest

from emoverse.training.batches import LengthBatches


@pytest.fixture
def lengths() -> list[int]:
    short = [random.Random(4).randint(80, 130) for _ in range(300)]
    return short + [600] * 12


def batches_of(lengths: list[int], epoch: int = 0, drop_last: bool = False) -> list[list[int]]:
    sampler = LengthBatches(len(lengths), 32, True, drop_last, 42, group_by_length=True, lengths=lengths)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_every_row_comes_once_an_epoch(lengths: list[int]) -> None:
    for epoch in range(3):
        assert sorted(row for batch in batches_of(lengths, epoch) for row in batch) == list(range(len(lengths)))


def test_long_rows_share_a_batch(lengths: list[int]) -> None:
    assert sum(max(lengths[row] for row in batch) == 600 for batch in batches_of(lengths)) == 1


def test_order_and_company_change_with_the_epoch_and_follow_from_the_seed(lengths: list[int]) -> None:
    assert batches_of(lengths, 1) == batches_of(lengths, 1)
    assert {frozenset(batch) for batch in batches_of(lengths, 1)} != {frozenset(b) for b in batches_of(lengths, 2)}


def test_an_incomplete_batch_can_be_left_out(lengths: list[int]) -> None:
    assert {len(batch) for batch in batches_of(lengths, drop_last=True)} == {32}


@pytest.mark.parametrize("count", [13, 16, 17])
@pytest.mark.parametrize("grouped", [True, False])
def test_on_several_gpus_every_row_comes_too_and_each_gets_as_many_batches(count: int, grouped: bool) -> None:
    class OfFour(LengthBatches):
        rank, world_size = 0, 4

    told = list(range(count)) if grouped else None
    ranks = []
    for number in range(4):
        OfFour.rank = number
        ranks.append(list(OfFour(count, 2, True, False, 42, group_by_length=grouped, lengths=told)))
    assert {len(batches) for batches in ranks} == {-(-count // 8)}
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert set(seen) == set(range(count))
    assert all(batch for batches in ranks for batch in batches)
    assert len(seen) - count == {13: 0, 16: 0, 17: 3}[count]  # a lone last row, for each of four
