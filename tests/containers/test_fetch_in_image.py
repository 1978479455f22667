"""The data image holds what fetch needs to reach each kind of DVC remote, though much was left out of it."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from components import DATA
from emoverse.fetching import resolve
from tests.factories import remotes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("EMOVERSE_CONTAINERS" not in os.environ, reason="needs an engine: `make test-containers`"),
    pytest.mark.filterwarnings("ignore:_NoneStep"),  # inside DVC
]
CORPUS = {"train_sent_emo.csv": b"Utterance,Emotion\nja,joy\n", "train/dia0_utt0.mp4": bytes(range(256)) * 40}
FETCH = """
import sys
from pathlib import Path
from emoverse.fetching import fetch
print(fetch("meld", sys.argv[1], Path("/tmp/raw"), remote=sys.argv[2])["dvc_md5"])
"""


@pytest.mark.parametrize("kind", ["s3", "webdav", "ssh"])
def test_the_data_image_fetches_a_corpus_from_a_remote(kind: str, tmp_path: Path) -> None:
    repository = remotes.repository(tmp_path / "repository", CORPUS)
    with ExitStack() as stack:
        server = remotes.s3() if kind == "s3" else getattr(remotes, kind)(tmp_path / kind)
        remote = stack.enter_context(server)
        remotes.use(repository, remote)
        tracked = resolve("raw/MELD", repository=repository)
        variables = [word for name, value in remote.variables.items() for word in ("--env", f"{name}={value}")]
        words = ["docker", "run", "--rm", "--network", "host", *variables, DATA, "python", "-c", FETCH]
        done = subprocess.run([*words, tracked.md5, tracked.remote], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == tracked.md5
