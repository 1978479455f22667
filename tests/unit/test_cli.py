"""The command line: light until a verb runs, and honest in its exit codes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from emoverse import __version__
from emoverse.cli import VERBS, main

HEAVY = ("torch", "pandas", "numpy", "yaml", "pydantic", "kfp", "great_expectations", "transformers", "swift", "dvc")


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
    assert "train" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("error", "code", "named"),
    [
        (IsADirectoryError(21, "Is a directory", "a/b"), 2, "emoverse: a/b: Is a directory; check the path"),
        (KeyError("x"), 1, "emoverse: a fault of the program, please report it (KeyError: 'x')"),
        (KeyboardInterrupt(), 130, "emoverse: stopped by Ctrl-C"),
    ],
)
def test_no_traceback_reaches_a_user_and_none_is_lost(
    error: BaseException, code: int, named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(args: object) -> None:
        raise error

    monkeypatch.setattr("emoverse.verbs.lineage.main", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(["lineage", "x"]) == code
    said = capsys.readouterr().err
    assert said.startswith(named)
    assert "Traceback" not in said
    kept = list(tmp_path.glob("emoverse-*.txt"))
    assert len(kept) == (code == 1)
    assert all("Traceback" in path.read_text("utf-8") for path in kept)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("emoverse.verbs.lineage.main", broken)
    with pytest.raises(KeyError):
        main(["lineage", "x", "--debug"])


def _published(out: Path) -> Path:
    from emoverse.manifest import publish

    with publish(out, step="validate", params={}, inputs={}, code=[]) as draft:
        (draft.path / "a").write_text("x", "utf-8")
    return out
