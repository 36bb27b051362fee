import shutil
from pathlib import Path

import pytest

from saymask.export.checkpoint import open_checkpoint
from saymask.export.hub import fetch_snapshot, is_hub_id
from saymask.runtime import errors
from saymask.runtime.errors import CheckpointError, MissingExtraError

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, tiny_checkpoint, monkeypatch) -> Path:
    """Snapshot of "owner/tiny" in a cache of the hub's layout, with the network shut off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--tiny"
    for branch in ("main", "dev"):
        (repository / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
        (repository / "refs" / branch).write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    blobs = repository / "blobs"
    shutil.copytree(tiny_checkpoint, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    return snapshot


@pytest.mark.parametrize("reference", ["owner/tiny", "owner/tiny@dev", f"owner/tiny@{COMMIT}"])
def test_a_cached_repository_is_opened_without_the_network(cached, tiny_checkpoint, reference):
    opened = open_checkpoint(reference)
    assert opened.folder == cached
    assert opened.name == f"owner/tiny@{COMMIT}"
    assert opened.config.variant == "tiny"
    assert opened.sha256() == open_checkpoint(tiny_checkpoint).sha256()


def test_the_name_opens_the_same_again(cached):
    opened = open_checkpoint("owner/tiny")
    assert open_checkpoint(opened.name) == opened


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pth"])
def test_weights_of_any_format_are_fetched(cached, weights):
    (cached / "model.safetensors").rename(cached / weights)
    assert fetch_snapshot("owner/tiny") == cached


@pytest.mark.parametrize("reference", ["owner/other", "owner/tiny@v2"])
def test_what_is_nowhere_says_both_places(cached, reference):
    with pytest.raises(
        CheckpointError, match=f"{reference} is no folder, and the hub gave none .*Local.*; correct"
    ):
        open_checkpoint(reference)


def test_a_path_is_never_asked_of_the_hub(cached):
    with pytest.raises(CheckpointError, match="owner/tiny has no config.json"):
        open_checkpoint(Path("owner/tiny"))


def test_a_folder_comes_before_the_hub(cached, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoint, "owner/tiny")
    assert open_checkpoint("owner/tiny").folder == Path("owner/tiny")


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"saymask\[hub\]"):
        fetch_snapshot("owner/tiny")


@pytest.mark.parametrize(
    ("reference", "is_one"),
    [
        ("YxZhang/evf-sam", True),
        ("YxZhang/evf-sam@main", True),
        ("a/b.c@refs/pr/1", True),
        ("evf-sam-mini", False),
        ("./a/b", False),
        ("/a/b", False),
        ("~/b", False),
        ("a/b/c", False),
        ("a/b@", False),
        ("a/../b", False),
    ],
)
def test_ids_have_an_owner_and_a_name(reference, is_one):
    assert is_hub_id(reference) == is_one
