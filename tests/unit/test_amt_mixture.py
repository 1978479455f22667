from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.amt.mixture import Stage, draw, stages
from emoverse.errors import UserError
from emoverse.params import load_params

AMT = load_params().amt
IDS = [f"meld/train/dia{i}_utt0" for i in range(4000)]


def stage(**weights: float) -> Stage:
    return Stage("stage1", ("meld",), weights, 7, "several")


def test_a_weight_is_the_share_of_clips_kept() -> None:
    counts = Counter(name for one in IDS for name in stage(mer=0.2, msa=1.0, fer=0.0).picks(one))
    assert counts["msa"] == len(IDS)
    assert counts["fer"] == 0
    assert counts["mer"] / len(IDS) == pytest.approx(0.2, abs=0.02)


def test_a_clip_is_picked_whatever_other_tasks_and_clips_there_are() -> None:
    alone = [stage(mer=0.3).picks(one) for one in IDS]
    beside = [tuple(name for name in stage(mer=0.3, msa=0.5).picks(one) if name == "mer") for one in reversed(IDS)]
    assert alone == beside[::-1]


def test_a_larger_weight_keeps_what_a_smaller_one_kept() -> None:
    few = {one for one in IDS if stage(mer=0.2).picks(one)}
    more = {one for one in IDS if stage(mer=0.5).picks(one)}
    assert few < more


def test_one_task_per_clip_comes_first_with_odds_by_weight() -> None:
    one = replace(stage(mer=0.2, msa=0.8), per_clip="one")
    first = Counter(one.picks(name)[0] for name in IDS)
    assert first["msa"] / len(IDS) == pytest.approx(0.8, abs=0.02)
    assert all(sorted(one.picks(name)) == ["mer", "msa"] for name in IDS[:50])


def test_another_seed_or_stage_draws_anew() -> None:
    def kept(one: Stage) -> set[str]:
        return {name for name in IDS if one.picks(name)}

    base = kept(stage(mer=0.5))
    for other in (replace(stage(mer=0.5), seed=8), replace(stage(mer=0.5), name="stage2")):
        assert len(base & kept(other)) / len(IDS) == pytest.approx(0.25, abs=0.03)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_draw_is_a_number_below_one_and_always_the_same(key: list[str]) -> None:
    assert 0.0 <= draw(*key) < 1.0
    assert draw(*key) == draw(*key)


def test_the_draw_is_this_one_on_every_machine() -> None:
    assert draw(7, "stage1", "mer", "meld/train/dia0_utt0") == 0.8015143264416803


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
