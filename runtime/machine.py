"""What this machine is: processor, memory, CUDA devices and, on a Jetson, its release."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FEATURES",
    "CudaDevice",
    "allowed_cores",
    "cuda_devices",
    "forget_peak_memory",
    "jetson_release",
    "memory_bytes",
    "peak_memory_bytes",
    "processor_features",
    "processor_name",
    "sums_overflow",
]

FEATURES = {
    "avx2": "256-bit vectors",
    "avx512_vnni": "8-bit dot products, 512 bits wide",
    "avx_vnni": "8-bit dot products, 256 bits wide",
    "amx_int8": "8-bit matrix tiles",
    "asimddp": "8-bit dot products (NEON)",
    "i8mm": "8-bit matrix products (NEON)",
}
"""Flags of /proc/cpuinfo that decide how fast 8-bit engines are, and what they mean."""

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
_BOARD = Path("/proc/device-tree/model")
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_CUDA_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""`CUdevice_attribute` values of the compute capability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDevice:
    """One GPU that the CUDA driver offers."""

    name: str
    """As the driver says, for example "Orin"."""
    capability: str
    """Compute capability, for example "8.7"."""
    memory_bytes: int
    """All of its memory."""


def allowed_cores() -> int:
    """Return how many cores this process may use: taskset or a container may allow only some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Say which processor or board this is."""
    fields = _fields(_CPUINFO)
    board = _text(_BOARD).rstrip("\0\n")
    return fields.get("model name") or board or platform.processor() or platform.machine()


def processor_features() -> dict[str, bool] | None:
    """Say for each of `FEATURES` whether the processor has it; None where Linux doesn't tell."""
    fields = _fields(_CPUINFO)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {name: name in flags for name in FEATURES} if flags else None


def sums_overflow() -> bool:
    """Say whether the processor adds 8-bit products in 16 bits: x86 with AVX2 and without VNNI.

    Two products of the largest numbers are more than such a sum holds; ARM adds in 32 bits.
    """
    features = processor_features() or {}
    wide = ("avx512_vnni", "avx_vnni", "amx_int8")
    return features.get("avx2", False) and not any(features[name] for name in wide)


def memory_bytes() -> dict[str, int] | None:
    """Say how much memory there is in "total", "available" and as "swap" that is free.

    The latter two are no more than this process's control group may still take, in version 2. None
    where Linux doesn't tell.
    """
    fields = _fields(_MEMINFO)
    if "MemTotal" not in fields:
        return None
    return {
        "total": _bytes(fields["MemTotal"]),
        "available": _within_group(_bytes(fields.get("MemAvailable", "0 kB")), "memory"),
        "swap": _within_group(_bytes(fields.get("SwapFree", "0 kB")), "memory.swap"),
    }


def peak_memory_bytes() -> int | None:
    """Say how much memory this process has held at most; None where the system doesn't tell.

    `getrusage` would count what the parent process held before it started this one.
    """
    peak = _fields(_STATUS).get("VmHWM")
    return _bytes(peak) if peak else None


def forget_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on; it goes on counting where that is not allowed."""
    with suppress(OSError):
        _CLEAR_REFS.write_text(_CLEAR_PEAK)


def jetson_release() -> str | None:
    """Read the first line of L4T's release file; None where this is no Jetson."""
    return next(iter(_text(_TEGRA_RELEASE).splitlines()), "").lstrip("# ") or None


def cuda_devices() -> tuple[CudaDevice, ...]:
    """List the devices of the CUDA driver; none where there is no driver or it doesn't start."""
    try:
        cuda = ctypes.CDLL(_CUDA_LIBRARY)
        count = ctypes.c_int()
        if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        return tuple(_cuda_device(cuda, index) for index in range(count.value))
    except (OSError, AttributeError):
        return ()


def _cuda_device(cuda: ctypes.CDLL, index: int) -> CudaDevice:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return CudaDevice(
        name=name.value.decode(errors="replace"),
        capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
    )


def _fields(path: Path) -> dict[str, str]:
    """Read "key : value" lines; of several with one key the first counts."""
    pairs = (line.partition(":")[::2] for line in reversed(_text(path).splitlines()))
    return {key.strip(): value.strip() for key, value in pairs}


def _within_group(free_bytes: int, kind: str) -> int:
    """Return how much of what is free the control groups leave, whose limits hold from the top."""
    group = _fields(_CGROUP).get("0", ":/").lstrip(":/")
    folder = _CGROUPS / group
    for place in (folder, *folder.parents[: len(Path(group).parts)]):
        most, held = (_text(place / f"{kind}.{end}").strip() for end in ("max", "current"))
        if most.isdecimal() and held.isdecimal():
            # Files that were read count as held, and are given up where something else needs room.
            files = re.search(r"^inactive_file (\d+)", _text(place / "memory.stat"), re.MULTILINE)
            spare = int(files[1]) if files and kind == "memory" else 0
            free_bytes = min(free_bytes, max(0, int(most) - int(held) + spare))
    return free_bytes


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _bytes(text: str) -> int:
    """Read "123 kB"."""
    return int(text.split()[0]) * 1024
