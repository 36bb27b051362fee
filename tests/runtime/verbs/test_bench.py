import json

import pytest

from saymask.runtime.cli import main
from saymask.runtime.machine import processor_name

CPU = ("--device", "cpu", "--threads", "1")


def _report(capsys, *words) -> dict:
    assert main(["bench", *map(str, words), "--json", *CPU]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_bundle_is_timed_from_cold_start_to_percentiles(tiny_bundle, capsys):
    report = _report(capsys, tiny_bundle, "--iterations", 100, "--phrases", 3)
    conditions = report["conditions"]
    assert conditions["processor"] == processor_name()
    assert (conditions["device"], conditions["threads"]) == ("cpu", 1)
    assert (conditions["phrases"], conditions["frame_hw"]) == (3, [48, 80])
    assert "onnxruntime" in conditions["engines"]
    (figures,) = report["bundles"]
    assert len(figures["cold_start_ms"]) == len(figures["load_ms"]) == 5
    parts = zip(figures["load_ms"], figures["first_mask_ms"], strict=True)
    for whole, part in zip(figures["cold_start_ms"], map(sum, parts), strict=True):
        assert whole > part
    assert figures["size_bytes"] > 10_000
    whole = figures["stages"]["end to end"]
    assert whole["count"] == 100
    assert 0 < figures["stages"]["image"]["p50_ms"] < whole["p50_ms"] <= whole["p90_ms"]
    assert whole["p90_ms"] <= whole["p99_ms"]
    assert report["ratios"] == []


def test_others_are_compared_with_the_first(tiny_bundle, image_file, capsys):
    words = [tiny_bundle, "--compare", tiny_bundle, tiny_bundle, "--source", image_file]
    report = _report(capsys, *words, "--iterations", 12)
    assert len(report["bundles"]) == 3
    assert report["conditions"]["frame_hw"] == [90, 120]
    assert all(each["stages"]["end to end"]["p99_ms"] is None for each in report["bundles"])
    for ratio in report["ratios"]:
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_a_person_reads_tables(tiny_bundle, video_file, capsys):
    words = ["bench", str(tiny_bundle), "--compare", str(tiny_bundle), "--source", str(video_file)]
    assert main([*words, "--iterations", "3", *CPU]) == 0
    out, err = capsys.readouterr()
    conditions, starts, stages, ratio = out.split("\n\n")
    assert err == ""
    assert processor_name() in conditions
    assert "cpu, threads 1, 12 frame(s) of 120x90, 1 phrase(s), 3 rounds after 10" in conditions
    assert len(starts.splitlines()) == 3
    assert "p99 ms" in stages
    (whole, _) = [line.split() for line in stages.splitlines() if "end to end" in line]
    assert whole[-2] == "-"
    assert "tiny takes " in ratio
    assert "95 % interval" in ratio


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--source", "nowhere.png"], 1, "nowhere.png does not"),
        (["--iterations", "0"], 2, "whole number from 1"),
        (["--compare", "none"], 1, "looked for none"),
        (["--device", "cuda:99"], 4, "cuda:99 does not"),
    ],
)
def test_wrong_calls_end_in_one_line(tiny_bundle, capsys, words, code, said):
    assert main(["bench", str(tiny_bundle), *CPU, *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
