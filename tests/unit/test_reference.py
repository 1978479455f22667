"""Every parameter, command, message, output and variable has its place in the documentation."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.cli import COMMANDS
from emoverse.cli.options import parse_overrides
from emoverse.config import load_params
from emoverse.errors import UserError
from emoverse.evaluation.formats import FORMATS, read_rows
from emoverse.profiles import profile_text
from emoverse.registry import STEPS
from scripts import docs_site, messages, python_reference, reference

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"


def test_every_parameter_has_a_meaning_and_a_type() -> None:
    rows = [row for section in reference.all_parameters().values() for row in section]
    assert len(rows) > 80
    assert [key for key, kind, _, meaning in rows if not kind or not meaning] == []


def test_a_section_names_the_stages_that_run_again() -> None:
    assert reference.runs_again("evaluate") == ["evaluate", "export", "report"]
    assert reference.runs_again("stage2") == ["stage2", "evaluate", "export", "report"]
    assert reference.runs_again("media")[0] == "validate"


def test_every_command_and_option_has_a_line_with_a_meaning() -> None:
    page = reference.commands()
    for name in COMMANDS:
        assert f"\n## {name}\n" in page
    for name, parser in reference.parsers().items():
        for action in parser._actions:
            option = reference.option_text(action).replace("|", "\\|")
            assert option in page or action.dest == "help"
            assert action.help or action.choices, f"{name}: {action.dest} has no help"


def test_every_output_of_a_step_is_explained() -> None:
    page = (DOCS / "reference/files.md").read_text("utf-8")
    assert [out for step in STEPS.values() for out in step.outputs if f"`{out}`" not in page] == []


def test_every_column_of_the_tables_is_listed() -> None:
    from emoverse.artifacts.tables import PROBES, QUARANTINE, UTTERANCES

    page = reference.tables()
    assert page.count("| `") == len(PROBES) + len(QUARANTINE) + len(UTTERANCES)


def test_the_variables_that_the_code_reads_are_those_of_the_page() -> None:
    code = "".join(path.read_text("utf-8") for top in messages.FOLDERS for path in (REPO / top).rglob("*.py"))
    read = set(re.findall(r'"((?:EMOVERSE|KUBEFLOW)_[A-Z_]*[A-Z])"', code))
    page = (DOCS / "reference/environment.md").read_text("utf-8")
    assert read == set(re.findall(r"`((?:EMOVERSE|KUBEFLOW)_[A-Z_]+)", page))


def test_every_prediction_format_is_on_its_page() -> None:
    page = (DOCS / "scoring.md").read_text("utf-8")
    assert [name for name in FORMATS if f"`{name}`" not in page] == []


def test_the_public_python_interface_exists_and_is_documented() -> None:
    for _, module, names in python_reference.PUBLIC:
        for name in names:
            assert len(python_reference.described(module, name)) > 100


def test_every_place_that_raises_an_error_is_in_the_catalogue() -> None:
    places = {(message.module, message.line) for message in messages.messages()}
    raised = {(module.name, call.lineno) for module in messages.modules() for call in module.raises()}
    assert places == raised
    assert len(raised) > 300
    silent = [m for m in messages.messages() if m.problem == messages.GAP and not m.remedy]
    # Three pass on a message with its remedy as a worker process or a node reported it.
    passing = {"emoverse.serving.predictor", "emoverse.training.launch", "emoverse.training.train_job"}
    assert {m.module for m in silent} <= passing


def test_every_module_that_raises_has_a_heading() -> None:
    assert {messages.topic(message.module) for message in messages.messages()} == set(messages.TOPICS)


def found(text: str) -> bool:
    """Return whether a reader finds a message in the catalogue: by its text, with anything for ``...``."""
    patterns = {".*".join(map(re.escape, m.problem.split(messages.GAP))) for m in messages.messages()}
    return any(pattern.strip(".*") and re.fullmatch(pattern, text) for pattern in patterns)


@pytest.mark.parametrize(
    "provoke",
    [
        lambda folder: load_params(folder / "params.yaml"),
        lambda folder: load_params(REPO / "params.yaml", {"media.framse": 3}),
        lambda folder: load_params(REPO / "params.yaml", {"stage1.tuner": "full", "stage1.projector": "lora"}),
        lambda folder: parse_overrides(["media"]),
        lambda folder: profile_text("internvl9"),
        lambda folder: read_rows(folder / "a.csv", "excel"),
        lambda folder: read_rows(folder / "a.pkl"),
    ],
)
def test_a_message_as_printed_is_found_in_the_catalogue(provoke: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        provoke(tmp_path)
    assert found(caught.value.problem), caught.value.problem


def test_what_is_said_of_rows_and_clips_is_listed_with_known_reasons() -> None:
    from emoverse.validation.results import MEANING

    rows = messages.row_messages()
    assert ("... is not an emotion; ...", "bad-label") in rows
    assert ("its header says ... bytes, the file lacks ...", "clip-truncated") in rows
    assert {code for _, codes in rows for code in codes.split(", ") if code} <= set(MEANING)


def test_a_page_is_filled_and_an_unknown_part_is_an_error() -> None:
    filled = docs_site.fill("before\n\n<!-- generated: quarantine -->\n\nafter")
    assert "| `clip-truncated` |" in filled
    with pytest.raises(KeyError):
        docs_site.fill("<!-- generated: nothing -->")


def test_every_generated_part_is_on_a_page() -> None:
    named = {name for path in DOCS.rglob("*.md") for name in docs_site.MARK.findall(path.read_text("utf-8"))}
    assert named == set(docs_site.generators())
