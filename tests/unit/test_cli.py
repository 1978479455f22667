"""The command line: light until a verb runs, and honest in its exit codes."""

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from emoverse import __version__
from emoverse.cli.__init__ import VERBS, _guarded, main
from tests.factories.corpora import write_meld

HEAVY = ("torch", "pandas", "numpy", "yaml", "pydantic", "kfp", "great_expectations", "transformers", "swift", "dvc")
PUBLISHED = ("--split", "test", "--out")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


def test_no_verb_prints_help_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "verbs" in capsys.readouterr().out


def test_an_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "unknown verb 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"emoverse {__version__}"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from emoverse.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert "emoverse.cli" in loaded
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith("emoverse.verbs")]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_exists_and_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_spec(VERBS[verb][0]) is not None
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"emoverse {verb}" in capsys.readouterr().out


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from emoverse.cli import main; sys.exit(main(['lineage', sys.argv[1]]))"
    out = _published(tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", code, str(out)], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr


def _published(out: Path) -> Path:
    from emoverse.artifacts.manifest import publish

    with publish(out, step="validate", params={}, inputs={}) as draft:
        (draft.path / "a").write_text("x", "utf-8")
    return out


@pytest.mark.parametrize("annotations", ["no.csv", ".", "a.csv/b", "n" * 300])
def test_a_path_that_cannot_be_read_costs_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], annotations: str
) -> None:
    (tmp_path / "a.csv").write_text("x", "utf-8")
    assert main(["published", "meld", "--annotations", str(tmp_path / annotations), *PUBLISHED, "x"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert said.count("\n") == 1
    assert "; " in said


def test_a_published_test_set_of_another_split_or_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, command = write_meld(tmp_path), ["published", "meld", "--split", "test", "--out", str(tmp_path / "x.json")]
    assert main([*command, "--annotations", str(root / "dev_sent_emo.csv")]) == 2
    assert "is the validation split, not test; give --split validation, or test_sent_emo.csv" in capsys.readouterr().err
    header = (root / "test_sent_emo.csv").read_text("utf-8").splitlines()[0]
    (root / "test_sent_emo.csv").write_text(f"{header}\n", "utf-8")
    assert main([*command, "--annotations", str(root / "test_sent_emo.csv")]) == 2
    assert "has no utterances" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("out", [".", "a.csv/b"])
def test_a_path_that_cannot_be_written_costs_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    root = write_meld(tmp_path)
    (root / "a.csv").write_text("x", "utf-8")
    command = ["published", "meld", "--annotations", str(root / "test_sent_emo.csv"), *PUBLISHED]
    assert main([*command, str(root / out)]) == 2
    assert capsys.readouterr().err.startswith(f"emoverse: {root}")


def test_a_link_to_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    root = write_meld(tmp_path)
    link = tmp_path / "link"
    link.symlink_to("/dev/full")
    command = ["published", "meld", "--annotations", str(root / "test_sent_emo.csv"), *PUBLISHED]
    assert main([*command, str(link)]) == 2
    assert link.is_symlink()
    link.unlink()
    link.symlink_to(tmp_path / "real.json")
    assert main([*command, str(link)]) == 0
    assert json.loads((tmp_path / "real.json").read_text("utf-8"))


def test_a_fault_of_ours_leaves_one_line_and_the_traceback_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(_: argparse.Namespace) -> None:
        raise AssertionError("two\nlines")

    assert _guarded(broken, argparse.Namespace(debug=False)) == 1
    said = capsys.readouterr().err
    assert "a fault of this program" in said
    assert said.count("\n") == 1
    (log,) = tmp_path.glob("emoverse-*.log")
    assert str(log) in said
    assert "Traceback (most recent call last)" in log.read_text("utf-8")
    with pytest.raises(AssertionError):
        _guarded(broken, argparse.Namespace(debug=True))


def test_an_interrupted_verb_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    assert _guarded(stopped, argparse.Namespace(debug=False)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["x", "0", "-1", "1.5", "99999"])
def test_a_number_of_workers_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--corpus", "meld", "--raw", "a", "--out", "b", "--workers", number])
    assert "is not a whole number from 1" in capsys.readouterr().err
