"""Broken parameters, a missing corpus, an unfinished input: one line, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def emoverse(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "emoverse.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((REPO / "params.yaml").read_bytes())
    return tmp_path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Check that the command was refused in one clear line, and return it."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("emoverse: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (b"corpora: {meld: [\n", "params.yaml:2:1: not valid YAML"),
        (b"a: 1\n\tb: 2\n", "params.yaml:2:1: not valid YAML"),
        (b"media: {}\nmedia: {}\n", "params.yaml:2:1: not valid YAML: key 'media' is given twice"),
        (b"- 1\n- 2\n", "holds no mapping of sections"),
        (b"", "holds no mapping of sections"),
        (b"amt: {system: caf\xe9}\n", "params.yaml: not UTF-8 at byte 17"),
        (b"media: {frames: 2026-01-01}\n", "'corpora' is missing"),
    ],
)
def test_a_broken_params_file_is_named_with_line_and_column(place: Path, text: bytes, printed: str) -> None:
    (place / "params.yaml").write_bytes(text)
    assert printed in refused(emoverse("compile", "--out", "x.yaml", cwd=place))
    assert not (place / "x.yaml").exists()


def test_a_missing_params_file_says_where_to_run(tmp_path: Path) -> None:
    printed = refused(emoverse("compile", cwd=tmp_path))
    assert "params.yaml: no such file; run in the repository's root, or give --params" in printed


def test_a_folder_given_as_params_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(emoverse("compile", "--params", ".", cwd=tmp_path))


def test_an_unknown_parameter_gets_the_nearest_known_one(place: Path) -> None:
    printed = refused(emoverse("compile", "--set", "stage1.learning_rat=1e-3", cwd=place))
    assert "unknown parameter 'stage1.learning_rat', did you mean 'learning_rate'?" in printed


def test_a_missing_corpus_is_refused_before_anything_runs(place: Path) -> None:
    printed = refused(emoverse("run-local", "--root", "runs", cwd=place))
    assert "data/raw/sample/MELD: the raw corpus 'meld' is not here; run `dvc pull`" in printed
    assert not (place / "runs").exists()


def test_an_unfinished_folder_has_no_lineage(place: Path) -> None:
    (place / "data").mkdir()
    printed = refused(emoverse("lineage", "data", cwd=place))
    assert "manifest.json" in printed
    assert "give a finished output folder" in printed


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for words in (["--debug", "compile"], ["compile", "--debug"]):
        done = emoverse(*words, cwd=tmp_path)
        assert done.returncode != 0
        assert "Traceback (most recent call last)" in done.stderr
        assert "UserError" in done.stderr
