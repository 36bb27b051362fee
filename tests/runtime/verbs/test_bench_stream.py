import json
import os
import signal
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
import pytest

from saymask.runtime.bench import energy
from saymask.runtime.cli import main
from saymask.runtime.sources import OPENERS
from saymask.runtime.sources.frame import Frame
from saymask.runtime.verbs import bench_stream

from .. import chat_bundle

CPU = ("--device", "cpu", "--threads", "1")
SHORT = ("--seconds", "1.5", "--warm-up", "0.3")


def _bench(*words) -> int:
    return main(["bench", *map(str, words), *CPU])


@pytest.fixture
def report(tiny_bundle, image_file, capsys) -> dict:
    words = ("--stream", image_file, "--fps", 500, *SHORT, "--phrases", 3, "--json")
    assert _bench(tiny_bundle, *words) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_a_picture_is_played_like_a_camera(report, image_file):
    conditions, figures = report["conditions"], report["figures"]
    assert conditions["stream"] == str(image_file)
    assert (conditions["fps"], conditions["phrases"], conditions["frame_hw"]) == (500, 3, [90, 120])
    assert conditions["recorded_bytes_per_frame"] == 32
    assert not conditions["is_interrupted"]
    assert figures["seconds"] == pytest.approx(1.5, abs=0.3)
    assert figures["offered"] == pytest.approx(750, rel=0.2)
    assert figures["offered"] == figures["processed"] + figures["dropped"]
    age, engine = figures["age"], figures["engine"]
    assert 0 < engine["p50_ms"] < age["p50_ms"] <= age["p90_ms"] <= figures["age_max_ms"]
    assert {stage["name"] for stage in figures["stages"] if stage["is_engine"]} == {
        "image",
        "prompt",
        "mask",
    }
    assert sum(stage["share"] for stage in figures["stages"]) == pytest.approx(1)
    assert report["engine_alone"]["count"] == 20
    assert report["series"]["age_max_ms"]


def test_a_language_models_laps_are_time_in_engines(image_file, tmp_path, capsys):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    bundle = chat_bundle.write(tmp_path / "chat")
    words = ("--stream", image_file, "--fps", 20, "--seconds", 3, "--warm-up", 0.5, "--json")
    assert _bench(bundle, *words) == 0
    stages = json.loads(capsys.readouterr().out)["figures"]["stages"]
    assert {stage["name"] for stage in stages if stage["is_engine"]} == {
        "image", "vision", "prefix", "box", "points", "mask",
    }  # fmt: skip


def test_without_flags_a_person_reads_tables(tiny_bundle, image_file, capsys, tmp_path):
    plot, markdown = tmp_path / "figures" / "ages.svg", tmp_path / "stream.md"
    words = ("--stream", image_file, *SHORT, "--plot", plot, "--markdown", markdown)
    assert _bench(tiny_bundle, *words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "120x90 at 30 fps, 1 phrase(s), 1.5 s after 0.3 s of warm-up" in out
    assert "capture to masks" in out
    assert "flat up to" in out
    text = markdown.read_text()
    assert text.startswith(f"# tiny on {image_file}\n")
    assert "![Ages and memory over time](figures/ages.svg)" in text
    rows = [line for line in text.splitlines() if line.startswith("| capture to masks |")]
    assert len(rows) == 1
    assert len(list(ElementTree.parse(plot).getroot())) > 20


class Camera:
    """A live source of 50 Hz that ends, or interrupts the process as the user would."""

    is_moving = is_live = True

    def __init__(self, reference: str) -> None:
        self.name, _, options = reference.partition("?")
        self._is_interrupted = "fps=50" in options

    def frames(self) -> Iterator[Frame]:
        for index in range(60 if self._is_interrupted else 1):
            time.sleep(0.02)
            yield Frame(
                image_hwc=np.zeros((48, 64, 3), np.uint8),
                name=self.name,
                index=index,
                captured_ns=time.monotonic_ns(),
                time_s=index / 50,
            )
        if self._is_interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


@pytest.fixture
def camera(monkeypatch) -> str:
    """An address that opens a `Camera`."""
    monkeypatch.setitem(OPENERS, "camera://", Camera)
    return "camera://0"


def test_an_interrupted_run_prints_what_it_has(tiny_bundle, camera, capsys):
    words = ("--stream", camera, "--fps", 50, "--seconds", 60, "--warm-up", 0.2, "--json")
    assert _bench(tiny_bundle, *words) == 130
    told = json.loads(capsys.readouterr().out)
    assert told["conditions"]["is_interrupted"]
    assert told["conditions"]["fps"] == 50
    assert 0 < told["figures"]["seconds"] < 10
    assert 10 < told["figures"]["processed"] < 60


def test_a_source_that_ends_within_the_warm_up_is_an_error(tiny_bundle, camera, capsys):
    assert _bench(tiny_bundle, "--stream", camera, *SHORT) == 1
    assert "must last longer than its warm-up of 0.3 s; camera://0 ended" in capsys.readouterr().err


def test_energy_is_told_where_the_machine_tells_it(
    tiny_bundle, image_file, tmp_path, capsys, monkeypatch
):
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "1000000")):
        (zone / name).write_text(text)
    (zone / "energy_uj").write_text("5")
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    monkeypatch.setattr(bench_stream, "_IDLE_S", 0.1)
    assert _bench(tiny_bundle, "--stream", image_file, *SHORT, "--json") == 0
    told = json.loads(capsys.readouterr().out)["figures"]["energy"]
    assert told[0] == {
        "meter": "RAPL package-0",
        "idle_w": 0,
        "mean_w": 0,
        "joules_per_frame": 0,
    }


def test_a_file_that_cannot_be_written_costs_no_figures(tiny_bundle, image_file, capsys):
    plot = image_file / "ages.svg"
    assert _bench(tiny_bundle, "--stream", image_file, *SHORT, "--plot", plot) == 1
    out, err = capsys.readouterr()
    assert "capture to masks" in out
    assert "ages.svg must be written" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--stream", "0", "--compare", "tiny", "other"), 2, "--compare must stand without"),
        (("--stream", "0", "--iterations", "5"), 2, "--iterations must stand without --stream"),
        (("--stream", "0", "--source", "a.png"), 2, "--source must stand without --stream"),
        (("--fps", "30"), 2, "--fps must come with --stream; got --fps 30"),
        (("--warm-up", "3"), 2, "--warm-up must come with --stream"),
        (("--plot", "a.svg"), 2, "--plot must come with --stream; got --plot a.svg"),
        (("--stream", "0", "--fps", "0"), 2, "must be a number above 0"),
        (("--stream", "0", "--fps", "nan"), 2, "must be a number above 0"),
        (("--stream", "0", "--seconds", "-1"), 2, "must be a number above 0"),
        (("--stream", "0", "--seconds", "inf"), 2, "must be a number above 0"),
        (("--stream", "0", "--fps", "30"), 2, "--fps must go with files or an address"),
        (("--stream", "v4l2:///dev/video0?sise=1x1", "--fps", "30"), 2, "sise"),
        (("--stream", "0", "--plot", "a.png"), 2, "--plot must name a .svg file; got a.png"),
        (("--stream", "nowhere.mp4"), 1, "nowhere.mp4 does not"),
    ],
)
def test_wrong_calls_end_in_one_line(tiny_bundle, capsys, words, code, said):
    assert _bench(tiny_bundle, *words) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
