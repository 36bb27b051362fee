"""A bundle is read as it was written, or refused with the name of what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import BundleError, OutputError


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def _contents(bundle: Bundle) -> dict[str, bytes | Path]:
    names = [name for name, _ in bundle.manifest.files if name != "golden.npz"]
    return {name: bundle.folder / name for name in names}


def _edit(folder: Path, **changes: object) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    written = Bundle.write(
        tmp_path / "new", bundle.manifest, _contents(bundle), golden=bundle.golden()
    )
    assert written == Bundle.read(tmp_path / "new")
    assert written.manifest == bundle.manifest
    assert {name for name, _ in written.manifest.files} == {
        path.relative_to(written.folder).as_posix()
        for path in written.folder.rglob("*")
        if path.is_file() and path.name != "bundle.json"
    }
    for name, array in bundle.golden().items():
        np.testing.assert_array_equal(written.golden()[name], array)


def test_a_bundle_without_a_vocabulary_file(tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    files = _contents(bundle)
    del files["tokenizer/tiny.spm"]
    manifest = replace(bundle.manifest, tokenizer=None, settings=(("count", "0+"),))
    Bundle.write(tmp_path / "new", manifest, files, golden=bundle.golden())
    read = Bundle.read(tmp_path / "new").manifest
    assert (read.tokenizer, read.settings) == (None, (("count", "0+"),))


def test_a_folder_is_listed_file_by_file(tiny_bundle, tmp_path):
    bundle, folder = Bundle.read(tiny_bundle), tmp_path / "words"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "data").write_bytes(b"data")
    image, *others = bundle.manifest.stages
    stages = (replace(image, file="stages/words"), *others)
    manifest = replace(bundle.manifest, stages=stages)
    files = {**_contents(bundle), "stages/words": folder}
    written = Bundle.write(tmp_path / "new", manifest, files, golden={}).folder
    read = Bundle.read(written)
    assert read.stage("image").is_folder
    assert not read.stage("image").is_graph
    listed = {name for name, _ in read.manifest.files}
    assert {"stages/words/config.json", "stages/words/deep/data"} < listed
    (written / "stages" / "words" / "deep" / "data").write_bytes(b"date")
    with pytest.raises(BundleError, match="deep/data must have SHA-256"):
        Bundle.read(written)
    with pytest.raises(BundleError, match="files must list 'stages/words'"):
        Bundle.write(tmp_path / "none", manifest, _contents(bundle), golden={})


def test_golden_holds_frame_words_and_every_tensor(tiny_bundle):
    bundle = Bundle.read(tiny_bundle)
    tensors = {
        f"{stage.name}/{tensor.name}"
        for stage in bundle.manifest.stages
        for tensor in (*stage.inputs, *stage.outputs)
    }
    assert set(bundle.golden()) == {"frame", "phrases"} | tensors


def test_stages_and_views_by_name(tiny_bundle):
    bundle = Bundle.read(tiny_bundle)
    assert bundle.stage("mask").file == "stages/mask.onnx"
    assert bundle.view("beit").size_hw == (32, 32)
    with pytest.raises(BundleError, match="named 'video'; it has image, prompt, mask;"):
        bundle.stage("video")
    with pytest.raises(BundleError, match="named 'clip'; it has sam, beit;"):
        bundle.view("clip")


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"must hold bundle\.json"):
        Bundle.read(tmp_path)


def test_missing_file(copy):
    (copy / "stages" / "prompt.onnx").unlink()
    with pytest.raises(BundleError, match=r"prompt\.onnx, which is missing; export it again"):
        Bundle.read(copy)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content + b" "])
def test_altered_file(copy, damage):
    path = copy / "stages" / "mask.onnx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=r"mask\.onnx must have SHA-256 .* was edited"):
        Bundle.read(copy)


def test_truncated_manifest(copy):
    path = copy / "bundle.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BundleError, match=r"bundle\.json must be JSON"):
        Bundle.read(copy)


def test_manifest_that_is_no_text(copy):
    (copy / "bundle.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="copy must be readable; .* can't decode byte"):
        Bundle.read(copy)


def test_foreign_schema(copy):
    _edit(copy, schema_version=1)
    with pytest.raises(BundleError, match="schema_version 3, .* got 1"):
        Bundle.read(copy)


def test_unlisted_stage(copy):
    files = json.loads((copy / "bundle.json").read_text())["files"]
    _edit(copy, files=[pair for pair in files if pair[0] != "stages/image.onnx"])
    with pytest.raises(BundleError, match=r"files must list 'stages/image\.onnx'"):
        Bundle.read(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "stages/../../secret"])
def test_files_outside(copy, name):
    _edit(copy, files=[[name, "0" * 64]])
    with pytest.raises(BundleError, match="must lie inside the bundle"):
        Bundle.read(copy)


def test_write_needs_every_stage(tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    contents = _contents(bundle)
    del contents["stages/mask.onnx"]
    with pytest.raises(BundleError, match=r"files must list 'stages/mask\.onnx'"):
        Bundle.write(tmp_path / "new", bundle.manifest, contents, golden={})
    assert list(tmp_path.iterdir()) == []


def test_write_replaces_a_bundle_with_its_engine_cache(copy):
    (copy / "engines").mkdir()
    (copy / "engines" / "plan").touch()
    bundle = Bundle.read(copy)
    Bundle.write(copy, bundle.manifest, _contents(bundle), golden=bundle.golden())
    assert Bundle.read(copy) == bundle
    assert not (copy / "engines").exists()


def test_write_spares_other_folders(tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    (tmp_path / "photos").mkdir()
    Bundle.write(tmp_path / "photos", bundle.manifest, _contents(bundle), golden={})
    (tmp_path / "photos" / "bundle.json").rename(tmp_path / "photos" / "mine.jpg")
    for place in (tmp_path / "photos", tmp_path / "photos" / "mine.jpg"):
        with pytest.raises(OutputError, match="may replace only another bundle"):
            Bundle.write(place, bundle.manifest, _contents(bundle), golden={})


def test_write_says_where_it_failed(tiny_bundle, tmp_path):
    bundle = Bundle.read(tiny_bundle)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/new, which failed: .* check the path"):
        Bundle.write(tmp_path / "file" / "new", bundle.manifest, _contents(bundle), golden={})


WRITER = """
import sys
from pathlib import Path
from saymask.runtime.bundle import Bundle
source, target, *pipe = map(Path, sys.argv[1:])
bundle = Bundle.read(source)
files = {name: source / name for name, _ in bundle.manifest.files}
files |= {"stages/prompt.onnx": path for path in pipe}
while True:
    Bundle.write(target, bundle.manifest, files, bundle.golden())
    print("written", flush=True)
"""


def _writer(*arguments: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _kill(writer: subprocess.Popen[bytes]) -> None:
    with writer:
        writer.kill()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_killed_in_the_middle(tiny_bundle, tmp_path, is_replaced):
    target, pipe = tmp_path / "target", tmp_path / "pipe"
    if is_replaced:
        shutil.copytree(tiny_bundle, target)
    os.mkfifo(pipe)
    # Opened both ways, so that the writer waits for the content of its second stage for ever.
    descriptor = os.open(pipe, os.O_RDWR)
    writer = _writer(tiny_bundle, target, pipe)
    while not list(tmp_path.glob(".target.*.partial/stages/prompt.onnx")):
        assert writer.poll() is None
        time.sleep(0.01)
    _kill(writer)
    os.close(descriptor)
    assert list(tmp_path.glob(".target.*.partial/stages/image.onnx"))
    assert target.exists() == is_replaced
    bundle = Bundle.read(tiny_bundle)
    if is_replaced:
        assert Bundle.read(target).manifest == bundle.manifest

    Bundle.write(target, bundle.manifest, _contents(bundle), golden=bundle.golden())
    assert Bundle.read(target).manifest == bundle.manifest
    assert sorted(tmp_path.iterdir()) == sorted([pipe, target])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
def test_killed_at_any_moment(tiny_bundle, tmp_path):
    target = tmp_path / "target"
    delays_s = np.random.default_rng(0).uniform(0, 0.03, 5)
    for delay_s in delays_s:
        writer = _writer(tiny_bundle, target)
        assert writer.stdout
        assert writer.stdout.readline() == b"written\n"
        time.sleep(delay_s)
        _kill(writer)
        assert Bundle.read(target).manifest == Bundle.read(tiny_bundle).manifest
        assert all(path == target or path.suffix == ".partial" for path in tmp_path.iterdir())
