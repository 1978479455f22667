"""Batches of like length: every row once an epoch, little padding, another order in every epoch."""

import random
from collections import Counter

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig

from emoverse.training.callbacks import sees_no_padding
from emoverse.training.rows import repeated_rows
from emoverse.training.swift_setup import LengthBatches


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


def shares_of(
    monkeypatch: pytest.MonkeyPatch, rows: int, size: int, ranks: int, grouped: bool
) -> list[list[list[int]]]:
    """Return the batches of each rank."""
    monkeypatch.setattr(LengthBatches, "world_size", ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(LengthBatches, "rank", rank)
        lengths = [100 + n % 60 for n in range(rows)] if grouped else None
        shares.append(list(LengthBatches(rows, size, True, False, 42, group_by_length=grouped, lengths=lengths)))
    return shares


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_no_batch_is_empty_or_too_large_and_every_row_comes(
    monkeypatch: pytest.MonkeyPatch, size: int, ranks: int, grouped: bool
) -> None:
    numbers = random.Random(size * ranks)
    for rows in {1, ranks - 1 or 1, ranks, size * ranks + 1, *(numbers.randint(1, 300) for _ in range(12))}:
        shares = shares_of(monkeypatch, rows, size, ranks, grouped)
        assert len({len(share) for share in shares}) == 1, "every rank takes as many steps"
        assert all(1 <= len(batch) <= size for share in shares for batch in share)
        trained = Counter(row for share in shares for batch in share for row in batch)
        assert sorted(trained) == list(range(rows))
        assert sum(trained.values()) - rows == repeated_rows(rows, size, ranks)
        if size > 1 and rows >= ranks:
            assert set(trained.values()) == {1}


def test_a_stage_smaller_than_a_batch_is_one_batch() -> None:
    assert sorted(batches_of([100, 101])[0]) == [0, 1]


def text_config(attention: str = "sdpa") -> Qwen2Config:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation = attention
    return config


RIGHT = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def test_a_batch_padded_on_the_right_trains_the_same_without_the_mask() -> None:
    config = text_config()
    assert sees_no_padding(config, RIGHT)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    ids = torch.randint(0, 40, RIGHT.shape)
    labels = torch.where(RIGHT.bool(), ids, -100)
    found = []
    for mask in (RIGHT, torch.ones_like(RIGHT)):
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        found.append((loss.detach(), [weights.grad.clone() for weights in model.parameters()]))
    torch.testing.assert_close(found[0], found[1])


def test_the_mask_stays_where_padding_is_seen_or_the_model_needs_to_know_it() -> None:
    assert not sees_no_padding(text_config(), RIGHT.flip(1))
    assert not sees_no_padding(text_config("flash_attention_2"), RIGHT)
    experts = Qwen3MoeConfig(num_hidden_layers=1)
    experts._attn_implementation = "sdpa"
    assert not sees_no_padding(experts, RIGHT)
