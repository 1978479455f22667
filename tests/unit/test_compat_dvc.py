"""DVC's private interfaces behave as emoverse.compat.dvc needs; a failure here says what an upgrade of DVC broke."""

import inspect
from pathlib import Path

import pytest

from emoverse.compat.dvc import ObjectStore, Output, find_output, read_config, remote_settings
from tests.factories import remotes
from tests.factories.remotes import Remote

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = remotes.repository(tmp_path_factory.mktemp("dvc") / "repository", {"a.csv": b"one"})
    remotes.use(root, Remote(str(root.parent / "store")))
    return root


def test_dvc_config_reads_the_repository_s_settings_and_fs_config_a_remote_s(root: Path) -> None:
    config = read_config(root)
    assert config["core"]["remote"] == "store"
    assert config["cache"].get("dir") is None
    assert remote_settings(config, "store")["url"] == str(root.parent / "store")


def test_repo_find_outs_by_path_gives_hash_and_remote(root: Path) -> None:
    out = find_output(root, "raw/MELD", "")
    assert isinstance(out, Output)
    assert (out.hash_name, out.remote) == ("md5", "")
    assert out.value.endswith(".dir")
    assert find_output(root, "raw/MELD", "HEAD") == out


def test_an_object_database_over_a_remote_gives_paths_content_and_copies(root: Path, tmp_path: Path) -> None:
    store = ObjectStore(remote_settings(read_config(root), "store"), ssh=False)
    listing = find_output(root, "raw/MELD", "").value
    assert store.path(listing).endswith(f"files/md5/{listing[:2]}/{listing[2:]}")
    assert b"a.csv" in store.read(listing)
    assert store.existing([listing, "0" * 32]) == {listing}
    assert store.sizes([listing]) == [len(store.read(listing))]
    store.copy([(listing, tmp_path / "copy")], None)
    assert (tmp_path / "copy").read_bytes() == store.read(listing)
    with pytest.raises(FileNotFoundError):
        store.read("0" * 32)


def test_oids_exist_of_a_folder_still_deletes_which_is_why_it_is_not_used() -> None:
    from dvc_data.hashfile.db.local import LocalHashFileDB

    assert "self.check(oid)" in inspect.getsource(LocalHashFileDB.oids_exist)
