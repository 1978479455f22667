"""A sweep's last step: scores of trainings that differ in their seed, side by side."""

from pathlib import Path

import pytest
from kfp import dsl

from components.compare_seeds import compare_seeds as component
from emoverse.artifacts.manifest import open_source
from emoverse.errors import UserError
from emoverse.report.run_pages import OverSeeds, as_markdown, over_seeds
from emoverse.report.scores import headlines
from tests.factories.results import make_results, with_seed


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the scores of three trainings, of seeds 42, 7 and 9."""
    root = tmp_path_factory.mktemp("sweep")
    results = make_results(root, count=12)
    return [results.scores, *(with_seed(results, root / str(seed), seed) for seed in (7, 9))]


def test_the_component_shows_the_mean_and_what_it_is_the_mean_of(scores: list[Path], tmp_path: Path) -> None:
    read = [dsl.Artifact(uri=str(path)) for path in scores]
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    table = dsl.Markdown(uri=str(tmp_path / "table"))
    component.python_func("", read[0], read[1], metrics, table, scores_3=read[2])
    first = headlines(scores[0])[0]  # the factory's replies are the same for every seed
    assert metrics.metadata[f"{first.task}_{first.metric}_mean"] == pytest.approx(first.value)
    assert metrics.metadata[f"{first.task}_{first.metric}_sd"] == 0
    assert metrics.metadata.pop("display_name") == "metrics over seeds"
    assert all(isinstance(value, float) for value in metrics.metadata.values()), "the UI compares every other key"
    assert table.metadata["made_from"] == ", ".join(sorted(f"evaluate {open_source(path).digest}" for path in scores))
    head, _, row, *rest = Path(table.path).read_text("utf-8").splitlines()
    assert head == "| task | score | mean | sd | seed 7 | seed 9 | seed 42 |"
    assert all(line.startswith("| ") for line in rest), "without validation scores no seed is named"
    assert row == f"| {first.task} | {first.metric} | {first.value:.4f} | 0.0000 |" + f" {first.value:.4f} |" * 3
    assert Path(metrics.path).is_file()


def test_the_seed_to_choose_is_the_one_with_the_best_validation_score(tmp_path: Path) -> None:
    results = make_results(tmp_path, count=12)
    chosen = {1: 0.5, 2: 0.7, 3: 0.6}
    found = [with_seed(results, tmp_path / str(seed), seed, score) for seed, score in chosen.items()]
    comparison = over_seeds(found)
    assert (comparison.validation, comparison.best_seed) == (chosen, 2)
    table = as_markdown(comparison).splitlines()
    assert table[2] == "| validation | mean score | 0.6000 | 0.1000 | 0.5000 | 0.7000 | 0.6000 |"
    assert table[-1].startswith("Seed 2 has the best validation score.")
    assert over_seeds([results.scores, *found]).best_seed is None, "some seeds have no validation score"


def test_the_deviation_is_the_samples() -> None:
    one = OverSeeds("mer", "weighted_f1", {1: 0.2, 2: 0.4, 3: 0.6})
    assert (one.mean, one.deviation) == (pytest.approx(0.4), pytest.approx(0.2))


def test_a_seed_that_comes_twice_is_refused(scores: list[Path]) -> None:
    with pytest.raises(UserError, match=r"trained with seed 42, as .* was; give each seed once"):
        over_seeds([scores[0], scores[0]])


def test_code_that_the_run_did_not_ask_for_is_refused(
    scores: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"metrics": dsl.Metrics(uri=str(tmp_path / "m")), "table": dsl.Markdown(uri=str(tmp_path / "t"))}
    with pytest.raises(SystemExit):
        component.python_func("0" * 64, dsl.Artifact(uri=str(scores[0])), dsl.Artifact(uri=str(scores[1])), **made)
    assert "build the image from the revision that submits the run" in capsys.readouterr().err
