"""An engine is used only where it was built for, from the graph it was built from, and whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saymask.runtime import machine
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine_cache import (
    TARGETS,
    DeviceKey,
    build_command,
    device_key,
    find_engine,
    graph_sha256,
    read_reports,
)
from saymask.runtime.errors import DeviceError, EngineError

KEY = DeviceKey(sm=(80, 89), library="tensorrt", version="10.3.0", cuda="12", os="linux-x86_64")
HERE = replace(KEY, sm=(89,))


def _find(folder: Path, *, version: str = "10.3.0", index: int = 0, library: str = "tensorrt"):
    bundle = Bundle.read(folder)
    stage = bundle.stage("image")
    return find_engine(
        folder,
        folder / stage.file,
        stage,
        library=library,
        library_version=version,
        index=index,
    )


def test_a_key_is_a_folder():
    assert KEY.folder == "tensorrt-10.3.0-sm80+89-cuda12-linux-x86_64"


def test_a_key_fits_where_every_part_is_the_same():
    assert KEY.objections(HERE) == []
    assert KEY.objections(replace(HERE, sm=(120,))) == ["sm must be one of 80, 89; got 120"]
    for part in ("library", "version", "cuda", "os"):
        (objection,) = KEY.objections(replace(HERE, **{part: "x"}))
        assert objection == f"{part} must be {getattr(KEY, part)}; got x"


def test_the_key_of_this_machine():
    key = device_key("no_such_library", "1.0", (120, 89))
    assert (key.sm, key.cuda) == ((89, 120), "system")
    assert key.os == key.os.lower()
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert device_key("tensorrt_rtx", "1.7", (89,)).cuda in {"11", "12", "13"}


def test_the_command_that_builds():
    assert build_command(Path("b"), "tensorrt_rtx", "fp16") == "saymask build b --target rtx --fp16"
    assert build_command(Path("b"), "tensorrt") == "saymask build b --target tensorrt"
    assert set(TARGETS.values()) == {"tensorrt", "tensorrt_rtx"}


@pytest.mark.usefixtures("gpu")
def test_the_engine_that_fits_is_found(engine_bundle):
    folder = engine_bundle()
    path, report = _find(folder)
    assert path.read_bytes().startswith(b"no plan")
    assert (report.stage, report.key.sm, report.shapes[0].most) == ("image", (89,), (1, 3, 64, 64))
    assert [report.stage for _, report in read_reports(folder)] == ["image", "mask", "prompt"]


@pytest.mark.usefixtures("no_gpu")
def test_no_device(engine_bundle):
    with pytest.raises(DeviceError, match="cuda:0 was asked for and this machine has 0;.*doctor"):
        _find(engine_bundle())


@pytest.mark.usefixtures("gpu")
def test_a_device_that_is_not_there(engine_bundle):
    with pytest.raises(DeviceError, match="cuda:3 was asked for and this machine has 1"):
        _find(engine_bundle(), index=3)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("built", "message"),
    [
        ({"sm": (87,)}, "sm must be one of 87; got 89"),
        ({"version": "10.13.0"}, "version must be 10.13.0; got 10.3.0"),
    ],
)
def test_another_device_or_version(engine_bundle, built, message):
    folder = engine_bundle(**built)
    command = f"run: saymask build {folder} --target tensorrt --fp16"
    with pytest.raises(DeviceError, match=message) as raised:
        _find(folder)
    assert str(raised.value).endswith(command)


@pytest.mark.usefixtures("gpu")
def test_nothing_was_built(tiny_bundle):
    with pytest.raises(EngineError, match="there is none; run: saymask build .*tiny --target rtx"):
        _find(tiny_bundle, library="tensorrt_rtx")


@pytest.mark.usefixtures("gpu")
def test_a_stale_engine(engine_bundle):
    folder = engine_bundle()
    for path in folder.glob("engines/*/image.json"):
        path.write_text(path.read_text().replace(graph_sha256(folder / "stages/image.onnx"), "0"))
    with pytest.raises(EngineError, match="stale: the graph has changed since; run: saymask build"):
        _find(folder)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("content", [None, b"", b"no plan" * 50, b"no plaN" * 100])
def test_a_damaged_engine(engine_bundle, content):
    folder = engine_bundle()
    (path,) = folder.glob("engines/*/image.engine")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"must have 700 bytes .* damaged: \d+ bytes; run: say"):
        _find(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "image"}'])
def test_a_report_that_is_none_of_ours(engine_bundle, text):
    folder = engine_bundle()
    (path,) = folder.glob("engines/*/image.json")
    path.write_text(text)
    with pytest.raises(EngineError, match=r"image\.json must be the report of an engine; .*delete"):
        list(read_reports(folder))


def test_weights_beside_a_graph_count(tmp_path):
    graph = tmp_path / "image.onnx"
    graph.write_bytes(b"graph")
    alone = graph_sha256(graph)
    (tmp_path / "image.onnx.data").write_bytes(b"weights")
    assert graph_sha256(graph) != alone


def test_a_report_is_plain_json(engine_bundle):
    folder = engine_bundle()
    data = json.loads(next(folder.glob("engines/*/image.json")).read_text())
    assert data["key"]["sm"] == [89]
    assert machine.cuda_devices() is not None
