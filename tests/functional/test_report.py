"""The page over all results: complete, self-contained, deterministic, and deaf to what transcripts would like to do."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.errors import UserError
from emoverse.report.report import report, validation_scores
from emoverse.report.samples import PER_TEST, choose
from emoverse.report.scores import confusion_over, flat, test_sets
from tests.factories.browser import PHONE, width_on_a_phone
from tests.factories.results import Results, make_results

test_sets.__test__ = False  # type: ignore[attr-defined]  # a function of the library, though its name begins with "test"
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(2)> {{ 7*7 }} {% raw %} <|im_start|> \u202e\"'>"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Make a finished run whose transcripts and quarantine details would break a careless page."""
    return make_results(tmp_path_factory.mktemp("run"), words=HOSTILE, detail=HOSTILE)


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "reports"
    report(*results.arguments(), out)
    return (out / "index.html").read_text("utf-8")


class Reader(HTMLParser):
    """Collect what a browser would see: tags, their attributes, and text outside style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        (self.scripts if inside == "script" else self.texts).append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_every_section_is_there(page: str) -> None:
    ids = {attributes.get("id") for tag, attributes in read(page).tags if tag == "section"}
    assert ids == {"tasks", "scores", "tests", "samples", "data", "mixtures", "training", "export", "lineage"}


def test_each_tasks_tokens_stand_beside_the_length_that_is_allowed(results: Results, page: str) -> None:
    count = (results.amt / "stage1.jsonl").read_text("utf-8").count('"task":"ecpe"')
    texts = [text.strip() for text in read(page).texts if text.strip()]
    head = texts.index("max_length")
    assert texts[head + 2 : head + 5] == ["stage1", "ECPE", str(count)]
    assert texts[head + 7 : head + 9] == ["4,096", "0"]


def test_a_hostile_transcript_is_text_and_nothing_else(page: str) -> None:
    reader = read(page)
    assert len(reader.scripts) == 1  # ours
    assert "alert" not in reader.scripts[0]
    assert not [1 for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert all(str(a.get("src")).startswith("data:image/") for tag, a in reader.tags if tag == "img")
    assert HOSTILE in " ".join(reader.texts)  # the quarantine's detail, to the letter
    assert "{{ 7*7 }}" in " ".join(reader.texts)  # and no template ran it


def test_the_page_asks_nothing_of_any_network(page: str) -> None:
    for tag, attributes in read(page).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, name, value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for tag, a in read(page).tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_only_the_script_in_the_policy_may_run(page: str) -> None:
    import base64
    import hashlib

    (script,) = read(page).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_the_same_results_give_the_same_bytes_whatever_the_order_and_place(results: Results, tmp_path: Path) -> None:
    report(*results.arguments(), tmp_path / "one")
    validated, *others = results.arguments()
    report(validated[::-1], *others, tmp_path / "elsewhere/two")
    assert open_source(tmp_path / "one").digest == open_source(tmp_path / "elsewhere/two").digest


def test_the_page_has_no_clock_and_no_absolute_path(page: str, results: Results) -> None:
    assert str(results.amt.parents[1]) not in page
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", page)


def test_scores_stand_beside_baseline_and_controls(page: str, results: Results) -> None:
    mer = json.loads((results.scores / "metrics.json").read_text("utf-8"))["mer"]
    for value in (mer["accuracy"], mer["low"], mer["high"], mer["baseline"], mer["text_only"], mer["face_only"]):
        assert f"{100 * value:.1f}" in page


def test_samples_show_mistakes_too_with_the_frames_the_model_saw(page: str) -> None:
    reader = read(page[page.index('<section id="samples">') :])
    cards = [a for tag, a in reader.tags if tag == "article"]
    verdicts = [a["data-verdict"] for a in cards if a["data-test"] == "meld-mer"]
    assert "right" in verdicts
    assert {"wrong", "unparsable"} & set(verdicts)
    assert sum(tag == "img" for tag, _ in reader.tags) == 2 * len(cards)  # two frames a clip in this run


def test_the_mistakes_shown_are_those_the_model_was_surest_of(results: Results, tmp_path: Path) -> None:
    copy = tmp_path / "scores"
    shutil.copytree(results.scores, copy)
    path = copy / "predictions" / "meld-mer.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    wrong = [row for row in rows if row["response"] != row["labels"] and row["response"] in row["probabilities"]]
    for n, row in enumerate(wrong):
        row["probabilities"][row["response"]] = 0.5 + n / 100
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = [one for one in choose(copy, results.amt, results.validated) if one.test == "meld-mer"]
    surest = [row["channel"] for row in wrong[::-1]][: PER_TEST // 2]
    assert [one.channel for one in found][: len(surest)] == surest
    assert found[0].confidence == 0.5 + (len(wrong) - 1) / 100


def test_every_test_set_stands_in_the_table_against_its_baselines(page: str, results: Results) -> None:
    text = " ".join(" ".join(read(page).texts).split())
    tests = json.loads((results.scores / "metrics.json").read_text("utf-8"))["tests"]
    for name, numbers in tests.items():
        value, low, high = (f"{100 * numbers[key]:.1f}" for key in ("headline", "low", "high"))
        assert re.search(rf"{name} \S.*? {value} {low} to {high} majority 25.0", text), name


def test_a_reliability_diagram_says_its_calibration_error(page: str, results: Results) -> None:
    tests = json.loads((results.scores / "metrics.json").read_text("utf-8"))["tests"]
    error = tests["meld-mer"]["calibration_error"]
    assert f"calibration error {100 * error:.1f}" in page
    assert f'aria-label="reliability diagram of meld-mer, calibration error {100 * error:.1f} percent"' in page


def test_nothing_sticks_out_on_a_phone(page: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(page, "utf-8")
    assert width_on_a_phone(tmp_path / "index.html") == PHONE


def test_lineage_names_every_raw_corpus_by_its_dvc_md5(page: str, results: Results) -> None:
    for folder in results.validated:
        (record,) = [r for r in open_source(folder).ancestry.values() if r["step"] == "raw"]
        assert record["dvc_md5"] in page


def test_quarantine_reasons_are_shown(page: str) -> None:
    text = " ".join(read(page).texts)
    assert "clip-unreadable" in text
    assert "labels.csv:7" in text


def test_dvc_gets_a_score_file_a_task_and_a_loss_file_a_stage(results: Results, tmp_path: Path) -> None:
    report(*results.arguments(), tmp_path / "reports")
    files = sorted(p.relative_to(tmp_path / "reports").as_posix() for p in (tmp_path / "reports").rglob("*.*"))
    assert files == ["classes.csv", "confusion.csv", "index.html", "loss/stage1.csv", "loss/stage2.csv",
                     "manifest.json", "reliability.csv", "scores/ecpe.json", "scores/mer.json"]  # fmt: skip
    with (tmp_path / "reports/loss/stage1.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 40
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    assert float(rows[0]["learning_rate"]) > float(rows[-1]["learning_rate"]) > 0
    with (tmp_path / "reports/reliability.csv").open(encoding="utf-8") as handle:
        bins = list(csv.DictReader(handle))
    (mer,) = [one for one in test_sets(results.scores) if one.headline.task == "mer"]
    assert sum(float(row["n"]) for row in bins if row["test"] == mer.name) == mer.headline.n
    with (tmp_path / "reports/classes.csv").open(encoding="utf-8") as handle:
        classes = [row for row in csv.DictReader(handle) if row["test"] == mer.name]
    assert len(classes) == len(mer.labels)
    assert all(float(row["low"]) <= float(row["f1"]) <= float(row["high"]) for row in classes)


def test_confusion_counts_every_record_once(results: Results) -> None:
    labels, counts = confusion_over(results.scores)
    (mer,) = [one for one in test_sets(results.scores) if one.headline.task == "mer"]
    assert sum(map(sum, counts)) == mer.headline.n
    assert len(labels) == len(counts) == len(counts[0])
    right = sum(counts[i][i] for i in range(len(labels)))
    assert right / mer.headline.n == pytest.approx(mer.headline.value, abs=1e-6)


def test_kubeflow_gets_each_headline_with_its_company(results: Results) -> None:
    found = flat(results.scores)
    assert {"mer_accuracy", "mer_low", "mer_high", "mer_baseline", "mer_text_only", "mer_face_only"} <= set(found)
    assert all(isinstance(value, float) for value in found.values())


def test_scores_and_graphs_of_another_model_are_refused(results: Results, tmp_path: Path) -> None:
    validated, amt, (base, one, _), scores, onnx = results.arguments()
    with pytest.raises(UserError, match=r"scores: it was produced from a different model than .*stage1"):
        report(validated, amt, [base, one], scores, onnx, tmp_path / "reports")


def test_scores_of_another_dataset_are_refused(results: Results, tmp_path: Path) -> None:
    validated, _, stages, scores, onnx = results.arguments()
    other = make_results(tmp_path, count=12)
    with pytest.raises(UserError, match=r"scores: it was made from a different amt than .*; run the step again"):
        report(validated, other.amt, stages, scores, onnx, tmp_path / "reports")


def test_the_output_of_another_step_is_refused(results: Results, tmp_path: Path) -> None:
    validated, amt, stages, scores, _ = results.arguments()
    with pytest.raises(UserError, match="an output of 'evaluate', not of 'export'"):
        report(validated, amt, stages, scores, scores, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_validation_scores_stand_apart_from_test_scores_and_name_the_published_checkpoint(
    page: str, results: Results
) -> None:
    card = page[page.index("On the validation sets") :].partition("</section>")[0]
    cells = re.findall(r"<tr><td>(.*?)</td><td class=\"n\">(.*?)</td>.*?<td class=\"n\">([\d.]+)</td>", card)
    assert cells == [
        ("stage1", "20 *", "0.150"), ("", "40", "0.075"), ("", "published", "0.510"),
        ("stage2", "30 *", "0.100"), ("", "60", "0.050"), ("", "published", "0.510"),
    ]  # fmt: skip
    assert "meld-mer 62.5" in card
    without = validation_scores({"stage2": open_source(results.stages[0], weights=False)})
    assert without == [], "a stage that was trained without validation rows has no such file"
