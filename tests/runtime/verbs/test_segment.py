import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from saymask.kernels.rle import decode
from saymask.runtime.cli import main
from saymask.runtime.sources import open_sources

RED = ("--prompt", "the red square")


@pytest.fixture
def segment(tmp_path, tiny_bundle, monkeypatch, capsys):
    """Runs `saymask segment` in `tmp_path` with the tiny bundle: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words, bundle: Path | None = tiny_bundle) -> tuple[int, str, str]:
        flags = ["--bundle", str(bundle)] if bundle else []
        code = main(["segment", *map(str, words), *flags, "--device", "cpu", "--threads", "1"])
        return code, *capsys.readouterr()

    return run


def _written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _frames(path: Path) -> list[np.ndarray]:
    (source,) = open_sources(str(path))
    return [frame.image_hwc for frame in source.frames()]


def test_an_image_becomes_a_table_and_a_picture(segment, image_file, tmp_path):
    code, out, err = segment(image_file.name, *RED, "--prompt", "a blue one")
    assert (code, err) == (0, "saymask: pictures are in out\n")
    head, red, blue = out.splitlines()
    assert head.split() == ["source", "phrase", "frames", "found", "score", "area", "ms"]
    assert red.startswith("table.png  the red square       1      1  0.7")
    assert "a blue one" in blue
    assert _written(tmp_path / "out") == ["table.overlay.png"]


def test_json_is_pure_and_writes_no_file(segment, image_file, frame, tmp_path):
    code, out, err = segment(image_file.name, *RED, "--prompt", "blue", "--json")
    assert (code, err) == (0, "")
    red, blue = map(json.loads, out.splitlines())
    truth = frame[..., 0] > 200
    mask = decode(red["rle"])
    assert np.sum(mask & truth) / np.sum(mask | truth) > 0.8
    assert (red["phrase"], red["size"], red["area_px"]) == ("the red square", [90, 120], mask.sum())
    assert (blue["phrase"], blue["source"], blue["frame"]) == ("blue", "table.png", 0)
    assert {"image", "prompt", "mask"} <= set(red["times_ms"])
    assert _written(tmp_path) == ["table.png"]


def test_json_and_pictures_go_together_when_told_where(segment, image_file, tmp_path):
    code, out, _ = segment(image_file, *RED, "--json", "--masks", "--out", "there")
    assert code == 0
    assert json.loads(out)
    assert _written(tmp_path / "there") == ["table.mask-1.png", "table.overlay.png"]


def test_pictures_can_be_left_out(segment, image_file, tmp_path):
    code, _, err = segment(image_file, *RED, "--no-overlay")
    assert (code, err) == (0, "")
    assert not (tmp_path / "out").exists()
    assert segment(image_file, *RED, "--no-overlay", "--masks")[0] == 0
    assert _written(tmp_path / "out") == ["table.mask-1.png"]


def test_a_video_becomes_a_video(segment, video_file, tmp_path):
    code, out, _ = segment(video_file, *RED)
    assert code == 0
    assert out.splitlines()[1].split()[4:6] == ["12", "12"]
    assert _written(tmp_path / "out") == ["walk.overlay.mp4"]
    assert len(_frames(tmp_path / "out" / "walk.overlay.mp4")) == 12


def test_a_videos_frames_are_numbered_and_timed(segment, video_file):
    records = [json.loads(line) for line in segment(video_file, *RED, "--json")[1].splitlines()]
    assert [record["frame"] for record in records] == list(range(12))
    assert [record["time_s"] for record in records] == [index / 25 for index in range(12)]
    lefts = [record["box_xyxy"][0] for record in records]
    assert lefts == sorted(lefts)
    assert lefts[-1] > lefts[0]


def test_a_folder_gives_a_picture_for_each_image(segment, write_image, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.png", "a10.jpg", "a9.png", "a9.jpg"):
        write_image(folder / name)
    code, out, _ = segment(folder, *RED)
    assert code == 0
    names = ["a9.jpg", "a9.png", "a10.jpg", "b.png"]
    assert [Path(line.split()[0]).name for line in out.splitlines()[1:]] == names
    assert _written(tmp_path / "out") == sorted(f"{name}.overlay.png" for name in names)


def test_a_template_wraps_the_words_but_not_the_label(segment, image_file):
    code, out, _ = segment(image_file, *RED, "--template", "semantic", "--json")
    assert code == 0
    assert json.loads(out)["phrase"] == "the red square"


def test_an_unknown_template_lists_the_known_ones(segment, image_file):
    code, _, err = segment(image_file, *RED, "--template", "poetic")
    assert code == 2
    assert "must be one of semantic; got 'poetic'" in err


def test_the_newest_bundle_is_used_and_named(segment, image_file, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundles" / "tiny")
    code, out, err = segment(image_file, *RED, "--json", bundle=None)
    assert code == 0
    assert err == "saymask: using bundles/tiny\n"
    assert json.loads(out)


def test_without_any_bundle_the_cure_is_named(segment, image_file):
    code, _, err = segment(image_file, *RED, bundle=None)
    assert code == 1
    assert "make one with: saymask export evf-sam --int8" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere.png", *RED], 1, "nowhere.png does not; check the path"),
        ([".", *RED], 1, "must hold images; . has none"),
        (["table.png", "--prompt", " "], 1, "a prompt must hold words; got ' '"),
        (["table.png", "--prompt", "red " * 40], 1, "token"),
        (["table.png", *RED, "--device", "cuda:99"], 4, "cuda:99"),
        (["table.png", *RED, "--device", "npu"], 2, "device must be auto, cpu, cuda or cuda:N"),
        (["table.png", *RED, "--threads", "0"], 2, "must be a whole number from 1"),
        (["table.png", *RED, "--json", "--masks"], 2, "--masks with --json must have --out"),
        (["table.png"], 2, "required: --prompt"),
        (["table.png", *RED, "--promt", "x"], 2, "unrecognized arguments: --promt x"),
        (["table.png", *RED, "--serve", "localhost:0"], 2, "must have one video or camera; got 1"),
        (["table.png", *RED, "--record", "a.mcap"], 2, "must have one video or camera; got 1"),
        (["table.png", *RED, "--every", "0"], 2, "must be a whole number from 1"),
        (["table.png", *RED, "--stall-seconds", "0"], 2, "must be a number above 0"),
    ],
)
def test_wrong_calls_end_in_one_line(tiny_bundle, write_image, tmp_path, monkeypatch, capsys, words,
                                     code, said):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "table.png" in words:
        write_image(tmp_path / "table.png")
    assert main(["segment", *words, "--bundle", str(tiny_bundle)]) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("saymask: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_bundle_is_refused(segment, image_file, tiny_bundle, tmp_path):
    damaged = shutil.copytree(tiny_bundle, tmp_path / "damaged")
    graph = damaged / "stages" / "mask.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    code, _, err = segment(image_file, *RED, bundle=damaged)
    assert code == 1
    assert "mask.onnx must have SHA-256" in err


def test_a_truncated_video_is_segmented_as_far_as_it_goes(segment, write_video, tmp_path):
    path = write_video(tmp_path / "cut.mp4", 60, movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: int(0.8 * len(data))])
    code, out, err = segment(path, *RED, "--json", "--out", "out")
    assert code == 1
    count = len(out.splitlines())
    assert 5 < count < 60
    assert err.splitlines() == [
        f"saymask: error: a video must be whole; {path} gave {count} frames: "
        "a packet is cut short; copy or record it again",
        "saymask: pictures are in out",
    ]
    assert len(_frames(tmp_path / "out" / "cut.overlay.mp4")) == count


def test_one_bad_image_does_not_stop_the_others(segment, write_image, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_image(folder / name)
    (folder / "b.png").write_bytes(b"")
    code, out, err = segment(folder, *RED)
    assert code == 1
    assert err.count("error") == 1
    assert f"{folder / 'b.png'} is empty" in err
    assert len(out.splitlines()) == 3
    assert _written(tmp_path / "out") == ["a.overlay.png", "c.overlay.png"]


def test_a_folder_that_cannot_be_written_is_reported(segment, image_file, video_file, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for source in (image_file, video_file):
        code, _, err = segment(source, *RED, "--out", tmp_path / "file" / "out")
        assert code == 1
        assert "must be written, which failed" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["table.png", "walk.mp4"])
def test_a_full_disk_leaves_nothing_half_written(
    saymask, tiny_bundle, image_file, video_file, tmp_path, name
):
    done = saymask("segment", name, *RED, "--bundle", tiny_bundle, shell='ulimit -f 2; exec "$@"')
    assert done.returncode == 1
    assert f"out/{Path(name).stem}.overlay" in done.stderr
    assert "must be written, which failed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not _written(tmp_path / "out")


@pytest.mark.parametrize("name", ["table.png", "walk.mp4"])
def test_full_output_is_reported(saymask, tiny_bundle, image_file, video_file, name):
    words = ("segment", name, *RED, "--bundle", tiny_bundle, "--json")
    done = saymask(*words, shell='exec "$@" >/dev/full')
    assert done.returncode == 1
    assert done.stderr.startswith("saymask: error: JSON lines must be written, which failed")
    assert done.stderr.count("\n") == 1


def test_a_reader_may_stop_early(saymask, tiny_bundle, video_file):
    words = ("segment", video_file, *RED, "--bundle", tiny_bundle, "--json")
    done = saymask(*words, shell='"$@" | head -n 1')
    assert json.loads(done.stdout)["frame"] == 0
    assert done.stderr in ("", "saymask: error: whoever read the output has stopped\n")


def test_between_keyframes_masks_are_tracked(segment, video_file):
    out = segment(video_file, *RED, "--json", "--every", "5")[1]
    records = [json.loads(line) for line in out.splitlines()]
    seen = [record["frame"] for record in records if "image" in record["times_ms"]]
    assert (len(records), seen) == (12, [0, 5, 10])
    assert all(record["area_px"] for record in records)


@pytest.fixture
def streaming(tiny_bundle, write_video, tmp_path):
    """Starts `saymask segment` on a video of minutes; its stdin, stdout and stderr are pipes."""
    write_video(tmp_path / "long.mp4", 3000)
    script = Path(sys.executable).with_name("saymask")
    processes = []

    def start(*flags) -> subprocess.Popen[str]:
        words = [script, "segment", "long.mp4", *RED, "--bundle", tiny_bundle, *flags]
        process = subprocess.Popen(
            list(map(str, words)),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that starts the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_files(streaming, tmp_path, number):
    process = streaming("--json", "--masks", "--out", "out")
    records = [json.loads(process.stdout.readline()) for _ in range(10)]
    process.send_signal(number)
    rest, err = process.communicate(timeout=30)
    records += map(json.loads, rest.splitlines())
    assert (process.returncode, err) == (130, "saymask: interrupted\n")
    assert [record["frame"] for record in records] == list(range(len(records)))
    out = tmp_path / "out"
    masks = sorted(out.glob("long.*.mask-1.png"))
    assert 10 <= len(masks) == len(records) < 3000
    assert {_frames(path)[0].shape for path in masks} == {(90, 120, 3)}
    assert len(_frames(out / "long.overlay.mp4")) == len(records)
    assert not list(out.glob(".*"))


def test_lines_of_stdin_change_the_prompts(streaming):
    process = streaming("--json", "--prompts-from-stdin")

    def read_until(phrase: str) -> dict:
        for line in process.stdout:
            record = json.loads(line)
            if record["phrase"] == phrase:
                return record
        raise AssertionError(process.stderr.read())

    first = read_until("the red square")
    process.stdin.write(f"{'red ' * 2500}\n \na blue one ; the green square\n")
    process.stdin.flush()
    blue = read_until("a blue one")
    assert blue["box_xyxy"][0] > first["box_xyxy"][0] + 30
    green = read_until("the green square")
    assert (green["frame"], green["area_px"]) == (blue["frame"], 0)
    process.send_signal(signal.SIGTERM)
    process.stdin.close()
    process.stdin = None
    _, err = process.communicate(timeout=30)
    long, empty, end = err.splitlines()
    assert long.startswith("saymask: the prompts stay as they were: a prompt must have at most 16")
    assert empty.startswith("saymask: the prompts stay as they were: a prompt must hold words")
    assert end == "saymask: interrupted"


def test_a_stream_is_shown_and_recorded(streaming, tmp_path):
    process = streaming("--serve", "127.0.0.1:0", "--record", "long.mcap")
    url = process.stderr.readline().removeprefix("saymask: the page is at ").strip()
    with urlopen(url, timeout=10) as page:
        assert b"<html" in page.read()
    request = Request(f"{url}phrases", json.dumps({"phrases": ["red " * 50]}).encode())
    request.add_header("Content-Type", "application/json")
    with pytest.raises(HTTPError) as refused:
        urlopen(request, timeout=10)
    with refused.value as answer:
        assert "at most 16 tokens" in json.load(answer)["error"]
    deadline_s = time.monotonic() + 30
    while not list(tmp_path.glob(".long.mcap*")) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == "saymask: interrupted\n"
    assert _written(tmp_path) == ["long.mcap", "long.mp4"]
