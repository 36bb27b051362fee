"""Energy, where the machine tells it: RAPL of a CPU, NVML of a GPU, tegrastats of a Jetson."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Meter", "module_power_w", "open_meters"]

_POWERCAP = Path("/sys/class/powercap")
_PACKAGES = "intel-rapl:[0-9]*"
"""Zones of RAPL; those with a second colon in their name are parts of one of the others."""

_TEGRASTATS = ("tegrastats", "--interval", "100")
_FIRST_LINE_S = 2.0
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+mW)?(?!\S)")
_WHOLE_MODULE = ("VDD_IN", "VIN", "POM_5V_IN")
_PART_OF_ANOTHER = ("VDDQ_VDD2_1V8AO",)


class Meter(Protocol):
    """Something that counts energy from the moment it was opened."""

    @property
    def name(self) -> str:
        """Who counts and what, for example "RAPL package-0"."""
        ...

    def joules(self) -> float:
        """Tell the energy since it was opened; not a number once it can tell no more."""
        ...


@contextmanager
def open_meters() -> Iterator[tuple[Meter, ...]]:
    """Open what works on this machine, often nothing; leaving the block closes it."""
    with ExitStack() as stack:
        meters: list[Meter] = [*_rapl_meters(), *_nvml_meters(stack)]
        if tegrastats := Tegrastats.start():
            stack.callback(tegrastats.close)
            meters.append(tegrastats)
        yield tuple(meters)


def module_power_w(line: str) -> float | None:
    """Read the power of a Jetson's module from a line of tegrastats.

    A rail is written "NAME NOW/MEAN" in milliwatts, with "mW" since JetPack 5 and a third figure
    since JetPack 7 (Jetson Linux Developer Guide, "tegrastats Utility"). Orin Nano, Orin NX,
    Xavier NX and TX2 measure their input (VDD_IN; Thor: VIN; Nano: POM_5V_IN). AGX Orin and AGX
    Xavier measure parts, which are added up; AGX Orin's VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0
    and would count twice (the same guide, "Software-Based Power Consumption Modeling").

    Returns:
        Watts at this moment; None where the line has no rails, as without root on some releases.
    """
    rails_w = {name: int(milliwatts) / 1000 for name, milliwatts in _RAIL.findall(line)}
    for name in _WHOLE_MODULE:
        if name in rails_w:
            return rails_w[name]
    parts_w = [watts for name, watts in rails_w.items() if name not in _PART_OF_ANOTHER]
    return sum(parts_w) if parts_w else None


class Rapl:
    """A package's counter in Linux's powercap interface, in microjoules; it wraps around.

    Source: the kernel's Documentation/power/powercap/powercap.rst. Only root may read it.
    """

    def __init__(self, zone: Path) -> None:
        """Take a zone's folder.

        Raises:
            OSError: It may not be read.
        """
        self.name = f"RAPL {(zone / 'name').read_text().strip()}"
        self._counter = zone / "energy_uj"
        self._range_uj = int((zone / "max_energy_range_uj").read_text())
        self._last_uj = self._count_uj()
        self._total_uj = 0

    def joules(self) -> float:
        """Tell the energy; see `Meter`. It must be asked once a turn of the counter at least."""
        try:
            now_uj = self._count_uj()
        except OSError:
            return math.nan
        self._total_uj += (now_uj - self._last_uj) % self._range_uj
        self._last_uj = now_uj
        return self._total_uj / 1e6

    def _count_uj(self) -> int:
        return int(self._counter.read_text())


class NvmlCounter:
    """A GPU that counts its energy itself, in millijoules (Volta and later)."""

    def __init__(self, nvml: Any, device: Any) -> None:
        """Take the library and a handle.

        Raises:
            nvml.NVMLError: The device doesn't count.
        """
        self.name = f"NVML {nvml.nvmlDeviceGetName(device)}"
        self._nvml, self._device = nvml, device
        self._start_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(device)

    def joules(self) -> float:
        """Tell the energy; see `Meter`."""
        try:
            now_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)
        except self._nvml.NVMLError:
            return math.nan
        return (now_mj - self._start_mj) / 1000


class NvmlPower:
    """A GPU that tells its power alone, in milliwatts; the energy is added up between questions."""

    def __init__(self, nvml: Any, device: Any) -> None:
        """Take the library and a handle.

        Raises:
            nvml.NVMLError: The device doesn't tell.
        """
        self.name = f"NVML {nvml.nvmlDeviceGetName(device)}"
        self._nvml, self._device = nvml, device
        self._last_ns = time.monotonic_ns()
        self._last_mw = nvml.nvmlDeviceGetPowerUsage(device)
        self._total_j = 0.0

    def joules(self) -> float:
        """Tell the energy; see `Meter`. The power is taken to change evenly in between."""
        try:
            now_mw = self._nvml.nvmlDeviceGetPowerUsage(self._device)
        except self._nvml.NVMLError:
            return math.nan
        now_ns = time.monotonic_ns()
        self._total_j += (now_ns - self._last_ns) * (now_mw + self._last_mw) / 2e12
        self._last_ns, self._last_mw = now_ns, now_mw
        return self._total_j


class Tegrastats:
    """A running `tegrastats`; a thread adds up the power of its lines."""

    name = "tegrastats module"

    def __init__(self, child: subprocess.Popen[str]) -> None:
        """Follow the lines of a child process; `Tegrastats.start` makes both."""
        self._child = child
        self._total_j = 0.0
        self._has_power = threading.Event()
        self._reader = threading.Thread(target=self._read, name="saymask-tegrastats", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls) -> Tegrastats | None:
        """Start the program; None where there is none or it tells no power."""
        program = shutil.which(_TEGRASTATS[0])
        if not program:
            return None
        words = [program, *_TEGRASTATS[1:]]
        meter = cls(
            subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
            )
        )
        if meter._has_power.wait(_FIRST_LINE_S):
            return meter
        meter.close()
        return None

    def joules(self) -> float:
        """Tell the energy; see `Meter`."""
        return self._total_j if self._reader.is_alive() else math.nan

    def close(self) -> None:
        """Stop the program."""
        self._child.terminate()
        self._child.wait()
        self._reader.join()
        if self._child.stdout:
            self._child.stdout.close()

    def _read(self) -> None:
        last_ns = time.monotonic_ns()
        for line in self._child.stdout or ():
            now_ns = time.monotonic_ns()
            watts = module_power_w(line)
            if watts is not None:
                self._total_j += watts * (now_ns - last_ns) / 1e9
                self._has_power.set()
            last_ns = now_ns


def _rapl_meters() -> Iterator[Rapl]:
    for zone in sorted(_POWERCAP.glob(_PACKAGES)):
        if zone.name.count(":") == 1:
            with suppress(OSError):
                yield Rapl(zone)


def _nvml_meters(stack: ExitStack) -> Iterator[NvmlCounter | NvmlPower]:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return
    stack.callback(nvml.nvmlShutdown)
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        for kind in (NvmlCounter, NvmlPower):
            with suppress(nvml.NVMLError):
                yield kind(nvml, device)
                break
