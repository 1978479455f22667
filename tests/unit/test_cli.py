"""The command line: nothing heavy is imported before a command runs; exit codes."""

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import emoverse
from emoverse import __version__
from emoverse.cli.__init__ import COMMANDS, guarded, main
from emoverse.errors import from_os_error
from tests.factories.corpora import write_meld

HEAVY = ("torch", "pandas", "numpy", "yaml", "pydantic", "kfp", "great_expectations", "transformers", "swift", "dvc")
PUBLISHED = ("--split", "test", "--out")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)


def test_no_command_prints_help_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


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
    assert not [name for name in loaded if name.startswith("emoverse.cli.")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists_and_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_spec(COMMANDS[command][0]) is not None
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"emoverse {command}" in capsys.readouterr().out


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
    printed = capsys.readouterr().err
    assert str(tmp_path) in printed
    assert printed.count("\n") == 1
    assert "; " in printed


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


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that tracebacks go to."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("error", [
    AssertionError("two\nlines"), KeyError("x"), OSError("no errno"), OSError(errno.EBADF, "Bad file descriptor"),
    FileNotFoundError(errno.ENOENT, "No such file", str(Path(emoverse.__file__).parent / "page.html.jinja")),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ModuleNotFoundError("x", name="emoverse.x"),
])  # fmt: skip
def test_an_internal_error_gives_one_line_exit_code_1_and_the_traceback_in_a_file(
    logs: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert guarded(raising(error), debug=False) == 1
    output = capsys.readouterr().err
    assert "internal error: " in output
    assert output.count("\n") == 1
    (log,) = logs.glob("emoverse-*.log")
    assert str(log) in output
    assert "Traceback (most recent call last)" in log.read_text("utf-8")
    with pytest.raises(type(error)):
        guarded(raising(error), debug=True)


def test_memory_that_runs_out_is_not_the_user_s_input(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(MemoryError()), debug=False) == 1
    assert "out of memory" in capsys.readouterr().err


def fail_as_if_interrupted() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_exits_with_130_and_an_interrupted_worker_process_with_1(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(KeyboardInterrupt()), debug=False) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err

    def run() -> None:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(fail_as_if_interrupted).result()

    assert guarded(run, debug=False) == 1
    assert "internal error: KeyboardInterrupt" in capsys.readouterr().err


@given(code=st.sampled_from(sorted(errno.errorcode)), path=st.sampled_from(["", "/data/x.csv", emoverse.__file__]))
def test_an_os_error_is_the_user_s_when_it_names_a_path_or_a_limit_and_ours_otherwise(code: int, path: str) -> None:
    known = from_os_error(OSError(code, "Reason", path) if path else OSError(code, "Reason"))
    limits = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
    users = code in limits or (path == "/data/x.csv" and code != errno.EBADF)
    assert (known is not None) == users
    assert known is None or (known.place == path and known.remedy)


@pytest.mark.parametrize(("package", "remedy"), [
    ("torch", "pip install 'emoverse[train]'"), ("gradio", "pip install 'emoverse[demo]'"), ("av", "pip install av"),
    ("pipelines", "run this command in a checkout"),
])  # fmt: skip
def test_a_missing_package_costs_one_line_that_names_the_remedy(
    package: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.sub")
    assert guarded(raising(error), debug=False) == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize("number", ["x", "0", "-1", "1.5", "99999"])
def test_a_number_of_workers_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--corpus", "meld", "--raw", "a", "--out", "b", "--workers", number])
    assert "is not a whole number from 1" in capsys.readouterr().err


def test_every_json_that_a_command_prints_or_training_writes_is_strict():
    package = Path(emoverse.__file__).parent
    for path in sorted([*package.glob("cli/*.py"), *package.glob("training/*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                strict = {key.arg: ast.unparse(key.value) for key in node.keywords}.get("allow_nan") == "False"
                assert strict or path.name == "launch.py", f"{path.name}:{node.lineno}"  # between our own processes
