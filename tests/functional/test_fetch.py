"""fetch: exactly the corpus that DVC names, from each kind of remote, or a refusal that says what to do."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from emoverse.artifacts.digests import digest_of_raw, folder_files
from emoverse.errors import UserError
from emoverse.fetching import (
    VARIABLES,
    RemoteStore,
    Tracked,
    fetch,
    fetch_once,
    missing_variables,
    pull,
    raw_folder,
    resolve,
)
from tests.factories import remotes
from tests.factories.remotes import SECRET, Remote

CORPUS = {
    "train_sent_emo.csv": b"Utterance,Emotion\nsagt 'ja',joy\n",
    "train_splits/dia0_utt0.mp4": bytes(range(256)) * 40,
    "train_splits/dia0_utt1 ünïcode.mp4": b"\0" * 5000,
    "train_splits/same.mp4": bytes(range(256)) * 40,
    "empty.csv": b"",
}
KINDS = ("webdav", "s3", "ssh", "local")
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remotes.repository(tmp_path_factory.mktemp("fetch") / "repository", CORPUS)


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Remote, Tracked]]]:
    """Push the corpus to a real server of each kind; keep what resolving then gave."""
    root = tmp_path_factory.mktemp("remotes")
    with ExitStack() as stack:
        kinds = {
            "webdav": stack.enter_context(remotes.webdav(root / "webdav")),
            "s3": stack.enter_context(remotes.s3()),
            "ssh": stack.enter_context(remotes.ssh(root / "ssh")),
            "local": Remote(str(root / "local"), folder=root / "local"),
        }
        found = {}
        for name, remote in kinds.items():
            remotes.use(repository, remote)
            found[name] = (remote, resolve("raw/MELD", repository=repository))
        yield found


def arrive(remote: Remote, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Be a pod: no home of the submitter's, the secrets in the environment."""
    for name in (*VARIABLES.values(), "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    for name, value in remote.variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_very_bytes_of_the_corpus_arrive_from_each_kind_of_remote(
    served: dict[str, tuple[Remote, Tracked]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, tracked = served[kind]
    assert SECRET not in tracked.remote
    arrive(remote, monkeypatch, tmp_path / "home")
    out = tmp_path / "artifact"
    facts = fetch("meld", tracked.md5, out, remote=tracked.remote)
    assert {name: (out / name).read_bytes() for name in folder_files(out)} == CORPUS
    assert (facts["digest"], facts["dvc_md5"]) == digest_of_raw(out) == (facts["digest"], tracked.md5)
    assert (facts["files"], facts["bytes"]) == (len(CORPUS), sum(map(len, CORPUS.values())))
    assert raw_folder(out) == out


def test_a_read_only_http_server_serves_a_remote_too(served: dict[str, tuple[Remote, Tracked]], tmp_path: Path) -> None:
    store, tracked = served["local"]
    assert store.folder
    with remotes.http(store.folder) as remote:
        facts = fetch("meld", tracked.md5, tmp_path / "out", remote=json.dumps({"url": remote.url}))
    assert facts["files"] == len(CORPUS)


def test_a_volume_is_filled_once_and_then_only_checked(
    served: dict[str, tuple[Remote, Tracked]], tmp_path: Path
) -> None:
    _, tracked = served["local"]
    volume = tmp_path / "volume"
    volume.mkdir()
    words: dict[str, Any] = {"remote": tracked.remote, "volume": str(volume)}
    first = fetch("meld", tracked.md5, tmp_path / "one/raw", **words)
    assert raw_folder(tmp_path / "one/raw") == volume / tracked.md5
    assert (tmp_path / "one/raw").stat().st_size < 300  # a note: the data itself is uploaded nowhere
    clip = volume / tracked.md5 / "train_splits/dia0_utt0.mp4"
    before = clip.stat().st_mtime_ns
    assert fetch("meld", tracked.md5, tmp_path / "two/raw", **words) == first
    assert fetch("meld", tracked.md5, tmp_path / "three/raw", volume=str(volume)) == first  # no remote is needed now
    assert clip.stat().st_mtime_ns == before
    clip.write_bytes(b"changed by somebody")
    with pytest.raises(UserError, match=f"but the run asked for {tracked.md5}"):
        fetch("meld", tracked.md5, tmp_path / "four/raw", **words)
    shutil.rmtree(volume / tracked.md5)
    with pytest.raises(UserError, match="is gone, or its volume is not mounted; mount the volume"):
        raw_folder(tmp_path / "one/raw")


def test_a_pull_that_was_cut_off_goes_on_with_what_is_right(
    served: dict[str, tuple[Remote, Tracked]], tmp_path: Path
) -> None:
    _, tracked = served["local"]
    remotes.write(
        tmp_path, {"train_splits/same.mp4": CORPUS["train_splits/same.mp4"], "half.tmp": b"1", "empty.csv": b"2"}
    )
    before = (tmp_path / "train_splits/same.mp4").stat().st_mtime_ns
    pull(tracked.md5, tracked.config, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in folder_files(tmp_path)} == CORPUS
    assert (tmp_path / "train_splits/same.mp4").stat().st_mtime_ns == before


@pytest.fixture
def broken(served: dict[str, tuple[Remote, Tracked]], tmp_path: Path) -> tuple[Path, Tracked, str]:
    """Copy the local remote; return it, what is tracked, and its settings."""
    store, tracked = served["local"]
    assert store.folder
    copy = tmp_path / "broken"
    shutil.copytree(store.folder, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755)
    return copy, tracked, json.dumps({"url": str(copy)})


def object_of(store: Path, md5: str) -> Path:
    return store / "files/md5" / md5[:2] / md5[2:]


def test_a_flipped_byte_in_the_remote_is_refused_by_the_files_name(
    broken: tuple[Path, Tracked, str], tmp_path: Path
) -> None:
    store, tracked, remote = broken
    listing = RemoteStore(tracked.config).listing(tracked.md5)
    path = object_of(store, listing["train_splits/dia0_utt0.mp4"])
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(UserError, match=r"train_splits/dia0_utt0.mp4: .* other content than its name says; remove"):
        fetch("meld", tracked.md5, tmp_path / "out", remote=remote)
    assert not (tmp_path / "out").exists()


def test_a_changed_list_of_files_is_refused(broken: tuple[Path, Tracked, str], tmp_path: Path) -> None:
    store, tracked, remote = broken
    path = object_of(store, tracked.md5)
    path.write_bytes(path.read_bytes().replace(b"empty.csv", b"other.csv"))
    with pytest.raises(UserError, match=r"the list of its files: .* other content than its name says"):
        fetch("meld", tracked.md5, tmp_path / "out", remote=remote)


def test_a_list_that_leads_out_of_the_folder_is_refused(broken: tuple[Path, Tracked, str], tmp_path: Path) -> None:
    import hashlib

    store, _, remote = broken
    for name in ("../evil", "/evil", "a/../../evil"):
        content = json.dumps([{"md5": "0" * 32, "relpath": name}]).encode()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
        path = object_of(store, md5)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(UserError, match="which is outside it"):
            fetch("meld", md5, tmp_path / "out", remote=remote)


def test_a_missing_object_is_named_with_its_remedy(broken: tuple[Path, Tracked, str], tmp_path: Path) -> None:
    store, tracked, remote = broken
    md5 = RemoteStore(tracked.config).listing(tracked.md5)["train_splits/same.mp4"]
    object_of(store, md5).unlink()
    assert RemoteStore(json.loads(remote)).missing(RemoteStore(tracked.config).listing(tracked.md5)) == [
        "train_splits/dia0_utt0.mp4",
        "train_splits/same.mp4",
    ]
    with pytest.raises(UserError, match=rf"does not have train_splits/dia0_utt0\.mp4 \(object {md5}\) and 1 more"):
        fetch("meld", tracked.md5, tmp_path / "out", remote=remote)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_the_remote_does_not_hold_is_refused(
    served: dict[str, tuple[Remote, Tracked]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, tracked = served[kind]
    arrive(remote, monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"does not have 00000000000000000000000000000000.dir .*`dvc push`"):
        fetch("meld", "0" * 32 + ".dir", tmp_path / "out", remote=tracked.remote)
    with pytest.raises(UserError, match="names no MD5"):
        fetch("meld", "", tmp_path / "out", remote=tracked.remote)


@pytest.mark.parametrize("kind", ["webdav", "ssh", "s3"])
def test_a_missing_or_wrong_secret_is_an_error_that_names_the_variable_and_not_the_secret(
    served: dict[str, tuple[Remote, Tracked]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, tracked = served[kind]
    assert missing_variables(tracked.config, ()) == sorted(remote.variables)
    assert missing_variables(tracked.config, remote.variables) == []
    if kind == "s3":  # moto lets everyone in: no keys at all must be told by the client
        arrive(Remote(remote.url), monkeypatch, tmp_path)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        secrets = [""]
    else:
        secrets = ["", "canary-wrong"]
    for secret in secrets:
        arrive(
            Remote(remote.url, variables=dict.fromkeys(remote.variables, secret) if secret else {}),
            monkeypatch,
            tmp_path,
        )
        with pytest.raises(UserError) as caught:
            fetch("meld", tracked.md5, tmp_path / "out", remote=tracked.remote)
        assert next(iter(remote.variables)) in str(caught.value)
        assert "canary" not in str(caught.value)


def test_a_dead_server_is_an_error_with_its_address(tmp_path: Path) -> None:
    remote = json.dumps({"url": "webdav://127.0.0.1:9/", "timeout": 2})
    with pytest.raises(UserError, match=r"webdav://127.0.0.1:9/: no answer from the remote"):
        fetch("meld", "0" * 32 + ".dir", tmp_path / "out", remote=remote)


def test_a_path_resolves_at_a_revision_and_in_the_working_tree(tmp_path: Path) -> None:
    root = remotes.repository(tmp_path / "r", {"a.csv": b"1"})
    remotes.use(root, Remote(str(tmp_path / "store")), push=False)
    first = remotes.git(root, "rev-parse", "HEAD")
    old = resolve("raw/MELD", repository=root)
    remotes.write(root / "raw/MELD", {"a.csv": b"2"})
    remotes.track(root)
    new = resolve("raw/MELD", repository=root)
    assert old.md5 != new.md5
    assert resolve("raw/MELD", repository=root, revision=first).md5 == old.md5
    assert resolve("raw/MELD", repository=root, revision="HEAD") == new
    with pytest.raises(UserError, match=r"no .dvc file names it; run `dvc add`"):
        resolve("raw/ECF", repository=root)
    with pytest.raises(UserError, match="nowhere: git does not know it"):
        resolve("raw/MELD", repository=root, revision="nowhere")
    with pytest.raises(UserError, match="no remote 'other'; known: store"):
        resolve("raw/MELD", repository=root, remote="other")
    remotes.use(root, Remote("s3://bucket/raw", {"version_aware": "true"}), push=False)
    with pytest.raises(UserError, match="keeps versions of paths, not content; push to an ordinary remote"):
        resolve("raw/MELD", repository=root)
    with pytest.raises(UserError, match="not a DVC repository"):
        resolve("raw/MELD", repository=tmp_path)


def test_a_volume_that_this_user_may_not_write_to_is_refused_with_the_remedy() -> None:
    place = Path("/sys/kernel")  # where nobody makes a file, root neither
    with pytest.raises(UserError, match=r"/sys/kernel: user \d+ may not write there; let that user .*`chown"):
        fetch_once("0" * 32 + ".dir", {"url": "s3://unasked"}, place / "corpus")
