import json
import sys

from saymask.runtime import machine
from saymask.runtime.cli import main


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
    assert "onnxruntime  no provider" in text


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
