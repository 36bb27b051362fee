"""Readers of energy on recorded output.

The lines of tegrastats were printed by boards: Orin Nano as in public set-up notes, the others as
in the tests of DataDog's agent (pkg/collector/corechecks/nvidia/jetson), AGX Orin on JetPack 7 as
in a public monitor; long lists of cores are cut.
"""

import math
import sys
import time
from types import ModuleType

import pytest

from saymask.runtime.bench import energy
from saymask.runtime.bench.energy import module_power_w, open_meters

ORIN_NANO = (
    "04-27-2026 14:59:41 RAM 775/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [1%@729,0%@729,0%@729] GR3D_FREQ 0% cpu@48.468C soc2@47.531C gpu@48.562C tj@49.156C "
    "VDD_IN 4761mW/4778mW VDD_CPU_GPU_CV 515mW/501mW VDD_SOC 1428mW/1428mW "
)
AGX_ORIN = (
    "RAM 29114/30697MB (lfb 3x4MB)    SWAP 4915/15348MB (cached 1MB) CPU [3%@729,4%@729] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 0%@[305,305] NVENC      off  NVDEC    off PVA0_FREQ off "
    "APE           174        cpu@53.062C tj@53.062C    VDD_GPU_SOC 3205mW/3205mW "
    "VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0 4767mW/4767mW"
)
AGX_ORIN_JETPACK_7 = (
    "07-17-2026 15:15:24 RAM 8182/62817MB (lfb 6x4MB) CPU [18%@729,12%@729] GR3D_FREQ 5% "
    "cpu@51.343C/51.343C tj@51.343C/51.343C VDD_GPU_SOC 3588mW/3588mW/3588mW "
    "VDD_CPU_CV 797mW/797mW/797mW VIN_SYS_5V0 5148mW/5148mW/5148mW"
)
XAVIER_NX = (
    "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) CPU [6%@729,9%@729,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@45.812C CPU@47.937C "
    "VDD_IN 5299mW/5299mW VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW"
)
AGX_XAVIER = (
    "RAM 1903/15692MB (lfb 3251x4MB) CPU [1%@1190,1%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@32.5C "
    "GPU@32C Tboard@32C PMIC@100C GPU 0/0 CPU 216/216 SOC 864/864 CV 0/0 VDDRQ 144/144 "
    "SYS5V 1889/1889"
)


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (ORIN_NANO, 4.761),
        (AGX_ORIN, 3.205 + 4.405 + 4.767),
        (AGX_ORIN + " VDDQ_VDD2_1V8AO 504mW/504mW", 3.205 + 4.405 + 4.767),
        (AGX_ORIN_JETPACK_7, 3.588 + 0.797 + 5.148),
        (XAVIER_NX, 5.299),
        (AGX_XAVIER, 0.216 + 0.864 + 0.144 + 1.889),
        (ORIN_NANO.partition("VDD_IN")[0], None),
        ("", None),
    ],
)
def test_a_module_is_its_input_or_the_sum_of_its_parts(line, watts):
    assert module_power_w(line) == (watts and pytest.approx(watts))


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """A machine that tells nothing: no RAPL, no NVML, no tegrastats."""
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path / "powercap")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_machine_that_tells_nothing_has_no_meters():
    with open_meters() as meters:
        assert meters == ()


@pytest.fixture
def tegrastats(tmp_path):
    """Makes a program that prints recorded lines, as many and as often as the real one."""

    def make(lines: list[str], pause_s: float = 0.02):
        program = tmp_path / "tegrastats"
        program.write_text(
            f"#!{sys.executable}\nimport sys, time\nassert sys.argv[1:] == ['--interval', '100']\n"
            f"for line in {lines!r}:\n    print(line, flush=True)\n    time.sleep({pause_s})\n"
        )
        program.chmod(0o755)

    return make


def test_tegrastats_is_run_added_up_and_stopped(tegrastats):
    tegrastats([ORIN_NANO] * 1000)
    with open_meters() as (meter,):
        before_j, before_s = meter.joules(), time.monotonic()
        time.sleep(0.5)
        joules, seconds = meter.joules() - before_j, time.monotonic() - before_s
    assert meter.name == "tegrastats module"
    assert joules / seconds == pytest.approx(4.761, rel=0.3)
    assert meter._child.poll() is not None


def test_tegrastats_without_power_is_no_meter(tegrastats, monkeypatch):
    tegrastats([ORIN_NANO.partition("VDD_IN")[0]] * 1000)
    monkeypatch.setattr(energy, "_FIRST_LINE_S", 0.3)
    with open_meters() as meters:
        assert meters == ()


def test_a_tegrastats_that_ends_tells_no_more(tegrastats):
    tegrastats([ORIN_NANO] * 3)
    with open_meters() as (meter,):
        meter._reader.join()
        assert math.isnan(meter.joules())


@pytest.fixture
def zones(tmp_path):
    """Makes the folder of powercap: a package, its cores, and one that may not be read."""
    named = (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"))
    for folder, name in named:
        zone = tmp_path / "powercap" / folder
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        (zone / "energy_uj").write_text("262143000000\n")
    (tmp_path / "powercap" / "intel-rapl:1" / "energy_uj").unlink()
    return tmp_path / "powercap"


def test_rapl_counts_packages_over_the_turn_of_the_counter(zones):
    with open_meters() as (meter,):
        assert meter.name == "RAPL package-0"
        assert meter.joules() == 0
        (zones / "intel-rapl:0" / "energy_uj").write_text("262143300000\n")
        assert meter.joules() == pytest.approx(0.3)
        (zones / "intel-rapl:0" / "energy_uj").write_text("171150\n")
        assert meter.joules() == pytest.approx(0.5)
        (zones / "intel-rapl:0" / "energy_uj").write_text("5171150\n")
        assert meter.joules() == pytest.approx(5.5)
        (zones / "intel-rapl:0" / "energy_uj").unlink()
        assert math.isnan(meter.joules())


class Nvml(ModuleType):
    """The functions of NVML that are asked, for two GPUs, the second without a counter."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.energy_mj, self.power_mw, self.is_open = 5_000_000, 30_000, False

    def nvmlInit(self):
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, device):
        return ("RTX 4090", "Quadro K620")[device]

    def nvmlDeviceGetTotalEnergyConsumption(self, device):
        return self.refuse() if device else self.energy_mj

    def nvmlDeviceGetPowerUsage(self, device):
        return self.power_mw

    def refuse(self, *_):
        raise self.NVMLError("Not Supported")


@pytest.fixture
def nvml(monkeypatch):
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def test_gpus_count_their_energy_or_have_their_power_added_up(nvml, monkeypatch):
    with open_meters() as (counter, power):
        assert (counter.name, power.name) == ("NVML RTX 4090", "NVML Quadro K620")
        start_s, start_j = time.monotonic(), power.joules()
        nvml.energy_mj += 1_500
        assert counter.joules() == 1.5
        time.sleep(0.2)
        nvml.power_mw = 50_000
        joules, seconds = power.joules() - start_j, time.monotonic() - start_s
        assert joules / seconds == pytest.approx(40, rel=0.05)
        assert nvml.is_open
        monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", nvml.refuse)
        monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", nvml.refuse)
        assert math.isnan(counter.joules())
        assert math.isnan(power.joules())
    assert not nvml.is_open


def test_a_driver_that_does_not_answer_is_no_meter(nvml, monkeypatch):
    monkeypatch.setattr(nvml, "nvmlInit", nvml.refuse)
    with open_meters() as meters:
        assert meters == ()


def test_the_library_itself_is_asked_where_it_is_installed(monkeypatch):
    """Its own error on a machine without a driver is the one that is caught."""
    monkeypatch.delitem(sys.modules, "pynvml")
    pytest.importorskip("pynvml")
    with open_meters() as meters:
        assert all(meter.name.startswith("NVML ") for meter in meters)
