import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.amt.mixture import Stage, draws, served, stages
from emoverse.config import load_params
from emoverse.errors import UserError

AMT = load_params().amt
IDS = [f"meld/train/dia{i}_utt0" for i in range(4000)]


def stage(**weights: float) -> Stage:
    return Stage("stage1", ("meld",), weights, 7, "several")


def kept(one: Stage, name: str = "mer", ids: Sequence[str] = IDS) -> set[str]:
    return {clip for clip, when in zip(ids, one.queue(ids)[name], strict=True) if math.isfinite(when)}


def test_a_weight_is_the_share_of_clips_kept() -> None:
    one = stage(mer=0.2, msa=1.0, fer=0.0)
    assert list(one.queue(IDS)) == ["msa", "mer"]
    assert len(kept(one, "msa")) == len(IDS)
    assert len(kept(one)) / len(IDS) == pytest.approx(0.2, abs=0.02)


def test_a_clip_is_picked_whatever_other_tasks_and_clips_there_are() -> None:
    assert kept(stage(mer=0.3)) == kept(stage(mer=0.3, msa=0.5), ids=IDS[::-1])
    assert kept(stage(mer=0.3), ids=IDS[:9]) == kept(stage(mer=0.3)) & set(IDS[:9])


def test_a_larger_weight_keeps_what_a_smaller_one_kept() -> None:
    assert kept(stage(mer=0.2)) < kept(stage(mer=0.5))


def test_one_task_per_clip_comes_first_with_odds_by_weight() -> None:
    queue = replace(stage(mer=0.2, msa=0.8), per_clip="one").queue(IDS)
    anything = {name: np.ones(len(IDS), np.bool_) for name in queue}
    served_by, tried = served(queue, anything, "one")
    assert (served_by["mer"] ^ served_by["msa"]).all()
    assert served_by["msa"].mean() == pytest.approx(0.8, abs=0.02)
    assert all((tried[name] == served_by[name]).all() for name in queue)


def test_a_clip_that_gives_its_first_task_no_question_serves_the_next() -> None:
    queue = {"mer": np.array([1.0, 1.0, 2.0, np.inf]), "msa": np.array([2.0, 2.0, 1.0, np.inf])}
    fits = {"mer": np.array([True, False, True, True]), "msa": np.array([True, True, False, True])}
    served_by, tried = served(queue, fits, "one")
    assert served_by["mer"].tolist() == [True, False, True, False]
    assert served_by["msa"].tolist() == [False, True, False, False]
    assert tried["msa"].tolist() == [False, True, True, False]
    several, _ = served(queue, fits, "several")
    assert several["msa"].tolist() == [True, True, False, False]


def test_another_seed_or_stage_draws_anew() -> None:
    base = kept(stage(mer=0.5))
    for other in (replace(stage(mer=0.5), seed=8), replace(stage(mer=0.5), name="stage2")):
        assert len(base & kept(other)) / len(IDS) == pytest.approx(0.25, abs=0.03)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=4))
def test_a_draw_is_a_number_below_one_and_always_the_same(key: list[str]) -> None:
    (value,) = draws(key[:1], *key[1:])
    assert 0.0 <= value < 1.0
    assert draws(["other", key[0]], *key[1:])[1] == value


def test_the_draw_is_this_one_on_every_machine() -> None:
    assert draws(["meld/train/dia0_utt0"], 7, "stage1", "mer").tolist() == [0.8015143264416803]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": {"merr": 1.0}}, "did you mean 'mer'"),
        ({"corpora": ("melt",)}, "did you mean 'meld'"),
        ({"corpora": ("mosei",)}, "which was not given"),
    ],
)
def test_a_mixture_of_unknown_things_is_an_error(changes: dict[str, object], says: str) -> None:
    section = replace(AMT.stage1, **{"corpora": ("meld",), **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        stages(replace(AMT, stage1=section), ["meld", "ecf"])
