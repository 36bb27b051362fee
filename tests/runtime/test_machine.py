import os
import subprocess
import sys
from pathlib import Path

import pytest

from saymask.runtime import machine

JETSON = {
    "cpuinfo": "processor : 0\nFeatures : fp asimd asimddp\n\nprocessor : 1\nFeatures : fp\n",
    "meminfo": "MemTotal:  7802 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB\nSwapFree: 70 kB\n",
    "model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "release": "# R36 (release), REVISION: 4.3, GCID: 38968081\nmore\n",
}


@pytest.fixture
def jetson(tmp_path, monkeypatch):
    """The files that describe a Jetson Orin Nano."""
    for name, text in JETSON.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_BOARD", tmp_path / "model")
    monkeypatch.setattr(machine, "_TEGRA_RELEASE", tmp_path / "release")


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A system that describes itself in no file and has no CUDA driver."""
    for name in ("_CPUINFO", "_MEMINFO", "_STATUS", "_BOARD", "_TEGRA_RELEASE"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    monkeypatch.setattr(machine, "_CUDA_LIBRARY", "libno-such-driver.so")


def test_a_jetson_is_known_by_its_files(jetson):
    assert machine.processor_name() == "NVIDIA Jetson Orin Nano Developer Kit"
    features = machine.processor_features()
    assert features
    assert [name for name in features if features[name]] == ["asimddp"]
    assert machine.memory_bytes() == {
        "total": 7802 * 1024, "available": 5000 * 1024, "swap": 70 * 1024,
    }  # fmt: skip
    assert machine.jetson_release() == "R36 (release), REVISION: 4.3, GCID: 38968081"


@pytest.mark.parametrize("kinds", ["0::/\n", "4:memory:/x\n0::/box/inner\n"])
def test_a_control_group_leaves_less(jetson, kinds):
    machine._CGROUP.write_text(kinds)
    inner = machine._CGROUPS / kinds.splitlines()[-1].removeprefix("0::/")
    inner.mkdir(parents=True)
    limits = {
        "memory.max": "4000000\n", "memory.current": "3500000\n",
        "memory.stat": "file 250\ninactive_file 200\nactive_file 50\n",
        "memory.swap.max": "max\n", "memory.swap.current": "5\n",
    }  # fmt: skip
    for name, text in limits.items():
        (machine._CGROUPS / name).write_text(text)
    found = machine.memory_bytes()
    assert found
    assert (found["available"], found["swap"]) == (500_200, 70 * 1024)
    (inner / "memory.swap.max").write_text("0\n")
    (inner / "memory.max").write_text("3000000\n")
    (inner / "memory.current").write_text("3500000\n")
    (inner / "memory.swap.current").write_text("0\n")
    found = machine.memory_bytes()
    assert found
    assert (found["available"], found["swap"]) == (0, 0)


def test_what_is_not_told_is_none(nothing):
    assert machine.processor_name()
    assert machine.processor_features() is None
    assert machine.memory_bytes() is None
    assert machine.peak_memory_bytes() is None
    assert machine.jetson_release() is None
    assert machine.cuda_devices() == ()


def test_the_processors_own_name_is_preferred(jetson):
    machine._CPUINFO.write_text("model name\t: Fast CPU 9000\nflags : avx2 avx512_vnni\n")
    assert machine.processor_name() == "Fast CPU 9000"
    features = machine.processor_features()
    assert features
    assert features["avx512_vnni"]
    assert not features["amx_int8"]


@pytest.mark.parametrize(
    ("flags", "overflow"),
    [
        ("flags : avx2", True), ("flags : avx2 avx512f", True), ("flags : avx2 avx_vnni", False),
        ("flags : avx2 avx512_vnni", False), ("Features : asimd asimddp", False), ("", False),
    ],
)  # fmt: skip
def test_sums_overflow_on_x86_without_vnni(jetson, flags, overflow):
    machine._CPUINFO.write_text(f"model name\t: Fast CPU 9000\n{flags}\n")
    assert machine.sums_overflow() == overflow


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_this_process_alone():
    """A child of a large process starts small."""
    ballast = bytearray(os.urandom(1024) * (200 * 1024))
    code = "from saymask.runtime.machine import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    own = machine.peak_memory_bytes()
    assert own
    assert own > len(ballast) > int(done.stdout) > 2**20
    del ballast
    machine.forget_peak_memory()
    later = machine.peak_memory_bytes()
    assert later
    assert own - later > 100 * 2**20


def test_a_cuda_driver_is_asked(tmp_path, monkeypatch):
    """The calls match the driver's C interface (cuda.h), here as a small library of ours."""
    compiler = os.environ.get("CC", "cc")
    source = tmp_path / "driver.c"
    source.write_text(
        """
        #include <stddef.h>
        #include <string.h>
        int cuInit(unsigned flags) { return flags; }
        int cuDeviceGetCount(int *count) { *count = 2; return 0; }
        int cuDeviceGet(int *device, int ordinal) { *device = 10 + ordinal; return 0; }
        int cuDeviceGetName(char *name, int length, int device) {
            strncpy(name, device == 11 ? "Orin" : "RTX", length); return 0; }
        int cuDeviceGetAttribute(int *value, int attribute, int device) {
            *value = attribute == 75 ? 8 : attribute == 76 ? device - 4 : -1; return 0; }
        int cuDeviceTotalMem_v2(size_t *bytes, int device) {
            *bytes = (size_t)device << 32; return 0; }
        """
    )
    library = tmp_path / "driver.so"
    try:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    except FileNotFoundError:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(machine, "_CUDA_LIBRARY", str(library))
    assert machine.cuda_devices() == (
        machine.CudaDevice(name="RTX", capability="8.6", memory_bytes=10 << 32),
        machine.CudaDevice(name="Orin", capability="8.7", memory_bytes=11 << 32),
    )


def test_only_some_cores_are_allowed(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert machine.allowed_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.allowed_cores() == 6
