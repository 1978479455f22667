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


@pytest.mark.parametrize("count", [96, 97, 99, 100, 127, 128, 129, 257])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_several_processes_share_every_row_and_take_equally_many_steps(
    monkeypatch: pytest.MonkeyPatch, count: int, ranks: int
) -> None:
    monkeypatch.setattr(LengthBatches, "world_size", ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(LengthBatches, "rank", rank)
        shares.append(batches_of([100 + n % 60 for n in range(count)], epoch=2))
    assert len({len(share) for share in shares}) == 1
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(count))
    assert all(batch for share in shares for batch in share)
    assert max(len(batch) for share in shares for batch in share) <= 33


def test_a_stage_smaller_than_a_batch_is_one_batch() -> None:
    assert sorted(batches_of([100, 101])[0]) == [0, 1]


def test_rows_need_not_be_grouped_by_length_and_still_all_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LengthBatches, "world_size", 2)
    monkeypatch.setattr(LengthBatches, "rank", 0)
    sampler = LengthBatches(129, 32, True, False, 42, group_by_length=False, lengths=None)
    first = list(sampler)
    monkeypatch.setattr(LengthBatches, "rank", 1)
    second = list(sampler)
    assert [len(batch) for batch in first + second].count(33) == 1
    assert sorted(row for batch in first + second for row in batch) == list(range(129))
