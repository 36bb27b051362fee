"""An engine is used only where it was built for, from the graph it was built from, and whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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
    rebuild_command,
    served_sm,
)
from saymask.runtime.errors import DeviceError, EngineError

KEY = DeviceKey(sm=(80, 89), library="tensorrt", version="10.3.0", cuda="12", os="linux-x86_64")
HERE = replace(KEY, sm=(89,))


def _find(
    folder: Path,
    *,
    version: str = "10.3.0",
    index: int = 0,
    library: str = "tensorrt",
    served: tuple[int, ...] | None = None,
):
    bundle = Bundle.read(folder)
    stage = bundle.stage("image")
    return find_engine(
        folder,
        folder / stage.file,
        stage,
        library=library,
        library_version=version,
        index=index,
        served=served,
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
    assert build_command(Path("b"), "tensorrt") == "saymask build b --target tensorrt"
    command = build_command(Path("my b"), "tensorrt_rtx", precision="fp16", phrases=2, device_sm=89)
    assert command == "saymask build 'my b' --target rtx --fp16 --device-sm 89 --phrases 2"
    assert set(TARGETS.values()) == {"tensorrt", "tensorrt_rtx"}


@pytest.mark.parametrize(
    ("library", "sm", "words"),
    [
        ("tensorrt_rtx", (89,), "--target rtx --fp16 --device-sm 89 --phrases 4"),
        ("tensorrt_rtx", (80, 89), "--target rtx --fp16 --phrases 4"),
        ("tensorrt", (89,), "--target tensorrt --fp16 --phrases 4"),
    ],
)
def test_the_command_that_built_an_engine(engine_bundle, library, sm, words):
    folder = engine_bundle(library, sm=sm)
    _, report = next(read_reports(folder))
    assert rebuild_command(folder, report) == f"saymask build {folder} {words}"


def test_what_a_library_serves():
    library = ModuleType("tensorrt_rtx")
    assert served_sm(library) is None
    library.ComputeCapability = type("Kinds", (), {"SM120": 120, "SM75": 75, "NONE": 0})
    assert served_sm(library) == (75, 120)
    library.__name__ = "tensorrt"
    assert served_sm(library) is None
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert 89 in served_sm(rtx)


@pytest.mark.parametrize(
    ("capability", "built", "advice"),
    [
        ("7.5", (80, 89), "run: saymask build {} --target rtx --fp16 --device-sm 75 --phrases 4"),
        ("12.0", (89,), "run: saymask build {} --target rtx --fp16 --device-sm 120 --phrases 4"),
        (
            "8.7",
            (80, 89),
            "sm 87 is not served by this library: tensorrt_rtx 1.7.1 compiles for 75, 80, 89, 120; "
            "run on that GPU: saymask build {} --target tensorrt --fp16 --phrases 4",
        ),
        ("7.5", None, "run: saymask build {} --target rtx --device-sm 75"),
        ("8.9", None, "run: saymask build {} --target rtx"),
        (
            "9.0",
            None,
            "sm 90 is not served by this library: tensorrt_rtx 1.7.1 compiles for 75, 80, 89, 120; "
            "run on that GPU: saymask build {} --target tensorrt",
        ),
    ],
)
def test_the_advice_helps_on_this_gpu(
    engine_bundle, tiny_bundle, monkeypatch, capability, built, advice
):
    device = machine.CudaDevice(name="GPU", capability=capability, memory_bytes=1 << 33)
    monkeypatch.setattr(machine, "cuda_devices", lambda: (device,))
    folder = engine_bundle("tensorrt_rtx", "1.7.1", built) if built else tiny_bundle
    with pytest.raises((DeviceError, EngineError)) as raised:
        _find(folder, version="1.7.1", library="tensorrt_rtx", served=(75, 80, 89, 120))
    assert str(raised.value).endswith("; " + advice.format(folder))


@pytest.mark.usefixtures("gpu")
def test_an_engine_of_another_version_is_built_again_for_all(engine_bundle):
    folder = engine_bundle("tensorrt_rtx", "1.6", (80, 89))
    command = f"run: saymask build {folder} --target rtx --fp16 --phrases 4"
    with pytest.raises(DeviceError, match=r"version must be 1.6; got 1.7.1") as raised:
        _find(folder, version="1.7.1", library="tensorrt_rtx", served=(75, 80, 89, 120))
    assert str(raised.value).endswith(command)


@pytest.mark.usefixtures("gpu")
def test_the_engine_that_fits_is_found(engine_bundle):
    folder = engine_bundle()
    path, report = _find(folder)
    assert path.read_bytes().startswith(b"no plan")
    assert (report.stage, report.key.sm, report.shapes[0].most) == ("image", (89,), (1, 3, 64, 64))
    assert [report.stage for _, report in read_reports(folder)] == ["image", "mask", "prompt"]


@pytest.mark.usefixtures("no_gpu")
def test_no_device(engine_bundle):
    folder = engine_bundle("tensorrt_rtx", sm=(75,))
    said = "cuda:0 was asked for and this machine has 0;.*doctor"
    with pytest.raises(DeviceError, match=said) as raised:
        _find(folder, library="tensorrt_rtx")
    words = "--target rtx --fp16 --device-sm 75 --phrases 4"
    assert str(raised.value).endswith(f"with: saymask build {folder} {words}")
    with pytest.raises(DeviceError, match="with: saymask build .* --target tensorrt$"):
        _find(folder)


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
    command = f"run: saymask build {folder} --target tensorrt --fp16 --phrases 4"
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
    said = r"image\.json must be the report of an engine; .*delete .* run: .* --target tensorrt$"
    with pytest.raises(EngineError, match=said):
        list(read_reports(folder))


@pytest.mark.parametrize(
    ("sm", "words"), [((75,), "--target rtx --device-sm 75"), ((80, 89), "--target rtx")]
)
def test_a_damaged_report_is_built_again_for_what_its_folder_names(engine_bundle, sm, words):
    folder = engine_bundle("tensorrt_rtx", sm=sm)
    next(folder.glob("engines/*/image.json")).write_text("{")
    with pytest.raises(EngineError) as raised:
        list(read_reports(folder))
    assert str(raised.value).endswith(f"run: saymask build {folder} {words}")


def test_a_report_from_before_phrases_were_noted(engine_bundle):
    folder = engine_bundle()
    path = next(folder.glob("engines/*/image.json"))
    data = json.loads(path.read_text())
    del data["phrases"]
    path.write_text(json.dumps(data))
    _, report = next(read_reports(folder))
    assert report.phrases is None
    assert rebuild_command(folder, report).endswith(" --target tensorrt --fp16")


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
