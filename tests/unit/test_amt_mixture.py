from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.amt.builder import Stage, draw, stages
from emoverse.config import load_params
from emoverse.errors import UserError

AMT = load_params().amt
IDS = [f"meld/train/dia{i}_utt0" for i in range(4000)]


def stage(**weights: float) -> Stage:
    return Stage("stage1", ("meld",), weights, 7, "several")


def kept(one: Stage, name: str = "mer", ids: Sequence[str] = IDS) -> set[str]:
    return {clip for clip in ids if name in one.queue(clip)}


def test_a_weight_is_the_share_of_clips_kept() -> None:
    one = stage(mer=0.2, msa=1.0, fer=0.0)
    assert one.tasks == ["msa", "mer"]
    assert len(kept(one, "msa")) == len(IDS)
    assert len(kept(one)) / len(IDS) == pytest.approx(0.2, abs=0.02)


def test_a_clip_is_picked_whatever_other_tasks_and_clips_there_are() -> None:
    assert kept(stage(mer=0.3)) == kept(stage(mer=0.3, msa=0.5), ids=IDS[::-1])
    assert kept(stage(mer=0.3), ids=IDS[:9]) == kept(stage(mer=0.3)) & set(IDS[:9])


def test_a_larger_weight_keeps_what_a_smaller_one_kept() -> None:
    assert kept(stage(mer=0.2)) < kept(stage(mer=0.5))


def test_one_task_per_clip_comes_first_with_odds_by_weight() -> None:
    queues = [replace(stage(mer=0.2, msa=0.8), per_clip="one").queue(clip) for clip in IDS]
    assert {tuple(sorted(queue)) for queue in queues} == {("mer", "msa")}
    assert sum(queue[0] == "msa" for queue in queues) / len(IDS) == pytest.approx(0.8, abs=0.02)


def test_another_seed_or_stage_draws_anew() -> None:
    base = kept(stage(mer=0.5))
    for other in (replace(stage(mer=0.5), seed=8), replace(stage(mer=0.5), name="stage2")):
        assert len(base & kept(other)) / len(IDS) == pytest.approx(0.25, abs=0.03)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=4))
def test_a_draw_is_a_number_below_one_and_always_the_same(key: list[str]) -> None:
    value = draw(key[0], *key[1:])
    assert 0.0 <= value < 1.0
    assert draw(key[0], *key[1:]) == value


def test_the_draw_is_this_one_on_every_machine() -> None:
    assert draw("meld/train/dia0_utt0", 7, "stage1", "mer") == 0.8015143264416803


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": {"merr": 1.0}}, "did you mean 'mer'"),
        ({"corpora": ("melt",)}, "did you mean 'meld'"),
        ({"corpora": ("mosei",)}, "which is missing"),
    ],
)
def test_a_mixture_of_unknown_things_is_an_error(changes: dict[str, object], says: str) -> None:
    section = replace(AMT.stage1, **{"corpora": ("meld",), **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        stages(replace(AMT, stage1=section), ["meld", "ecf"])
