import json
import re
import sys
from importlib import metadata

import pytest

from saymask.runtime import machine
from saymask.runtime.cli import main
from saymask.runtime.verbs import doctor


def _findings(capsys) -> dict:
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _libraries(findings: dict) -> dict[str, dict]:
    return {row["name"]: row for row in findings["libraries"]}


def test_what_is_there_is_found(capsys):
    import onnxruntime

    findings = _findings(capsys)
    assert findings["python"] == sys.version.split()[0]
    assert "CPUExecutionProvider" in findings["onnxruntime_providers"]
    libraries = _libraries(findings)
    assert libraries["onnxruntime"]["version"] == onnxruntime.__version__
    assert libraries["onnx"]["version"]
    assert findings["features"] is None or set(findings["features"]) == set(machine.FEATURES)


def test_what_is_missing_or_broken_is_a_finding(monkeypatch, tmp_path, capsys):
    (tmp_path / "llama_cpp.py").write_text("raise OSError('libGL.so.1 is not there')")
    (tmp_path / "tensorrt.py").write_text("import no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("onnxruntime", "av"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("_CPUINFO", "_MEMINFO", "_BOARD", "_TEGRA_RELEASE"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    findings = _findings(capsys)
    libraries = _libraries(findings)
    assert findings["onnxruntime_providers"] == []
    assert findings["memory_bytes"] is findings["features"] is findings["jetson"] is None
    assert (libraries["av"]["version"], libraries["av"]["extra"]) == (None, "video")
    assert libraries["llama_cpp"]["fault"] == "OSError: libGL.so.1 is not there"
    assert libraries["tensorrt"]["fault"] == "No module named 'no_such_part'"
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "does not load: OSError: libGL.so.1 is not there" in text
    assert "pip install 'saymask[video]'" in text
    assert "onnxruntime   no provider" in text
    assert "tensorrt      no; does not load: No module named 'no_such_part'" in text


def test_a_person_reads_one_line_for_each_fact(capsys):
    assert main(["doctor"]) == 0
    facts, libraries = capsys.readouterr().out.split("\n\n")
    names = [line.split()[0] for line in facts.splitlines()]
    assert names == [
        "saymask",
        "python",
        "processor",
        "has",
        "memory",
        "jetson",
        "cuda",
        "onnxruntime",
        "tensorrt_rtx",
        "tensorrt",
        "tensorrt_llm",
        "edge_llm",
    ]
    assert libraries.startswith("library")


def test_a_gpu_is_described(monkeypatch, capsys):
    device = machine.CudaDevice(name="Orin", capability="8.7", memory_bytes=8 << 30)
    monkeypatch.setattr(machine, "cuda_devices", lambda: (device,))
    assert _findings(capsys)["cuda_devices"] == [
        {"name": "Orin", "capability": "8.7", "memory_bytes": 8 << 30}
    ]
    main(["doctor"])
    assert "Orin (sm 8.7, 8.0 GiB)" in capsys.readouterr().out


def _engines(capsys, monkeypatch, tmp_path, libraries, devices) -> tuple[dict, str]:
    """What doctor says of both engines where exactly these libraries are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(f"__version__ = {libraries[name]!r}")
        if libraries[name] is None:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(machine, "cuda_devices", lambda: devices)
    found = {row["library"]: row for row in _findings(capsys)["engines"]}
    assert main(["doctor"]) == 0
    return found, capsys.readouterr().out


def test_what_compiles_without_a_gpu_and_runs_not(monkeypatch, tmp_path, capsys):
    libraries = {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1"}
    found, text = _engines(capsys, monkeypatch, tmp_path, libraries, ())
    assert found["tensorrt_rtx"]["lacks_to_compile"] == {}
    assert "a CUDA device" in found["tensorrt_rtx"]["lacks_to_run"]
    assert "a CUDA device" in found["tensorrt"]["lacks_to_compile"]
    assert "tensorrt_rtx  1.7.1, can compile; cannot run: lacks " in text
    assert (
        "tensorrt      10.3.0, cannot compile: lacks a CUDA device (go where there is one)" in text
    )


def test_libraries_of_engines_that_are_missing(monkeypatch, tmp_path, capsys):
    gpu = machine.CudaDevice(name="Orin", capability="8.7", memory_bytes=8 << 30)
    libraries = {"tensorrt": None, "tensorrt_rtx": None}
    found, text = _engines(capsys, monkeypatch, tmp_path, libraries, (gpu,))
    assert found["tensorrt"]["lacks_to_compile"] == {"tensorrt": "pip install 'saymask[tensorrt]'"}
    assert "tensorrt      no; pip install 'saymask[tensorrt]'" in text
    assert "tensorrt_rtx  no; pip install 'saymask[rtx]'" in text


def test_a_gpu_that_the_library_does_not_serve(monkeypatch, tmp_path, capsys):
    """TensorRT-RTX 1.7.1 knows no 8.7 (Orin) and no 9.0."""
    monkeypatch.setattr(doctor, "served_sm", lambda library: (75, 80, 86, 89, 120, 121))
    libraries = {"tensorrt": None, "tensorrt_rtx": "1.7.1"}
    orin, rtx = (
        machine.CudaDevice(name="GPU", capability=capability, memory_bytes=8 << 30)
        for capability in ("8.7", "8.9")
    )
    found, text = _engines(capsys, monkeypatch, tmp_path, libraries, (orin,))
    lacking = found["tensorrt_rtx"]["lacks_to_run"]["a CUDA device that it serves"]
    assert lacking == "it serves 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, not 8.7; take another --target"
    assert found["tensorrt_rtx"]["lacks_to_compile"] == {}
    assert "tensorrt_rtx  1.7.1, can compile; cannot run: lacks " in text
    found, _ = _engines(capsys, monkeypatch, tmp_path, libraries, (orin, rtx))
    assert "a CUDA device that it serves" not in found["tensorrt_rtx"]["lacks_to_run"]


@pytest.mark.parametrize("there", [(), ("llama_cpp",), ("xllamacpp",), ("llama_cpp", "xllamacpp")])
def test_one_library_with_llama_cpp_is_enough(monkeypatch, tmp_path, capsys, there):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("llama_cpp", "xllamacpp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text("__version__ = '1'")
        if name not in there:
            monkeypatch.setitem(sys.modules, name, None)
    libraries = _libraries(_findings(capsys))
    main(["doctor"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for name, other in (("llama_cpp", "xllamacpp"), ("xllamacpp", "llama_cpp")):
        excuse = other if there == (other,) else None
        assert libraries[name]["replaced_by"] == excuse
        assert (f"not needed beside {other}" in lines[name]) == bool(excuse)
        assert ("pip install 'saymask[llm]'" in lines[name]) == (not there)


def test_each_extra_brings_its_library(capsys):
    distributions = {
        "cv2": "opencv-python-headless", "tensorrt_rtx": "tensorrt-rtx", "llama_cpp": "xllamacpp",
    }  # fmt: skip
    required = metadata.requires("saymask")
    for name, row in _libraries(_findings(capsys)).items():
        extra = f'extra == "{row["extra"]}"' if row["extra"] else ""
        wanted = re.compile(rf"{distributions.get(name, name)}(\[|[<>=]).*{extra}")
        assert any(wanted.match(line) for line in required), name


def test_what_runs_a_language_model_elsewhere(monkeypatch, capsys):
    def version(name: str) -> str:
        if name == "tensorrt_llm":
            return "1.3.0"
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", lambda name: "0" if name == "saymask" else version(name))
    rows = {row["name"]: row["version"] for row in _findings(capsys)["language_runtimes"]}
    assert rows == {"tensorrt_llm": "1.3.0", "edge_llm": None}
    main(["doctor"])
    text = capsys.readouterr().out
    assert "tensorrt_llm  1.3.0\n" in text
    assert "edge_llm      no; see github.com/NVIDIA/TensorRT-Edge-LLM\n" in text
