import gc
import subprocess
import sys
from pathlib import Path

import pytest

from emoverse.collector import uncollected

REPO = Path(__file__).resolve().parents[2]

REFUSED = """
import sys
from emoverse import cli
words = "train --stage stage1 --model no-such --amt no-such --validated no-such --out out --params".split()
code = cli.main([*words, sys.argv[1]])
print(code, sorted({"torch", "transformers", "swift"} & set(sys.modules)))
"""


def test_the_collector_rests_while_libraries_load_and_works_afterwards():
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_works_again_when_a_library_cannot_be_loaded():
    with pytest.raises(ModuleNotFoundError), uncollected():
        import a_library_that_nobody_has  # noqa: F401
    assert gc.isenabled()


def test_a_collector_at_rest_stays_at_rest():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_train_refuses_a_missing_folder_before_it_loads_torch(tmp_path):
    words = [sys.executable, "-c", REFUSED, str(REPO / "params.yaml")]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "2 []"
    assert "no-such: no such folder" in said.stderr
