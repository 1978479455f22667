"""Contract tests of ms-swift's private interfaces: each says in one line what an upgrade broke."""

from __future__ import annotations

import inspect

from swift.dataloader import BatchSamplerShard
from swift.model.register import ModelLoader
from swift.pipelines import SwiftSft
from swift.trainers import mixin

from emoverse.compat.swift import batch_sampler


def test_the_pipeline_gets_its_rows_from_get_dataset() -> None:
    assert "self._get_dataset()" in inspect.getsource(SwiftSft._prepare_dataset)


def test_the_trainer_builds_its_batch_sampler_from_the_name_in_mixin() -> None:
    assert mixin.BatchSamplerShard is BatchSamplerShard
    assert "BatchSamplerShard(" in inspect.getsource(mixin)
    with batch_sampler(dict):
        assert mixin.BatchSamplerShard is dict
    assert mixin.BatchSamplerShard is BatchSamplerShard


def test_the_batch_sampler_is_constructed_with_the_arguments_that_ours_takes() -> None:
    names = [
        "total_samples",
        "batch_size",
        "shuffle",
        "drop_last",
        "data_seed",
        "tp_size",
        "group_by_length",
        "lengths",
    ]
    assert list(inspect.signature(BatchSamplerShard).parameters) == names


def test_remote_code_is_a_default_of_the_model_loader() -> None:
    assert hasattr(ModelLoader, "default_trust_remote_code")
