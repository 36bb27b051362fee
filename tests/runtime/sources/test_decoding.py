import threading
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest

from saymask.runtime.errors import SourceError
from saymask.runtime.sources import decoding
from saymask.runtime.sources.decoding import Pace, arrival_ns, file_pictures, stamp_ns, stream_shots

CODEC_ERROR = 2
"""Levels that a lossy codec may be off by on flat areas, on average."""
GOP = 10
STEP_PX = 2
ROW_STEP = 6


@pytest.fixture
def write_stream(tmp_path, frame):
    """Writes an MPEG-TS of frames at 25 Hz, with a key frame every 10."""

    def write(count: int, **options: str):
        with av.open(str(tmp_path / "camera.ts"), "w") as container:
            stream = container.add_stream("h264", rate=25)
            stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
            stream.options = {"g": str(GOP), "crf": "15", **options}
            for index in range(count):
                moved_hwc = np.roll(frame, STEP_PX * index, axis=1)
                image = av.VideoFrame.from_ndarray(moved_hwc, format="rgb24")
                image.pts = index
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        return tmp_path / "camera.ts"

    return write


@pytest.fixture
def stream_file(write_stream):
    """A stream of 60 frames, as cameras make them."""
    return write_stream(60, tune="zerolatency")


@pytest.fixture
def moved(frame):
    """Says which picture it is, None of None; fails for one that is broken."""
    rows = frame[::ROW_STEP].astype(np.int16)
    rolls = np.stack([np.roll(rows, STEP_PX * index, axis=1) for index in range(60)])

    def match(image_hwc) -> int | None:
        if image_hwc is None:
            return None
        errors = np.abs(rolls - image_hwc[::ROW_STEP]).mean(axis=(1, 2, 3))
        assert errors.min() < CODEC_ERROR
        return int(errors.argmin())

    return match


def _shots(path, closed=None, taken_ns=arrival_ns):
    """Read a file as if it were a stream; its end is how a stream is gone."""
    closed = closed or threading.Event()
    with av.open(str(path)) as container:
        yield from stream_shots(av, container, closed, "camera", silence_s=1.0, taken_ns=taken_ns)


def _all_shots(path, **options) -> list[tuple[np.ndarray | None, int]]:
    found: list[tuple[np.ndarray | None, int]] = []
    with pytest.raises(SourceError, match="camera (ended|broke)"):
        found.extend(_shots(path, **options))
    return found


def _pictures(path) -> list[np.ndarray | None]:
    return [image_hwc for image_hwc, _ in _all_shots(path)]


def test_a_stream_gives_every_picture(stream_file, moved):
    assert [moved(picture) for picture in _pictures(stream_file)] == list(range(60))


def test_a_stream_that_is_joined_mid_gop_begins_with_its_next_key_frame(stream_file, moved):
    packets = _video_packets(stream_file)
    tables, joined = packets[0], packets[GOP // 2]
    data = stream_file.read_bytes()
    stream_file.write_bytes(data[:tables] + data[joined:])
    pictures = _pictures(stream_file)
    seen = [moved(picture) for picture in pictures]
    assert seen[0] is None
    assert [index for index in seen if index is not None] == list(range(GOP, 60))


def _video_packets(path) -> list[int]:
    """Where in the file each picture begins."""
    with av.open(str(path)) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def test_a_stream_without_key_frames_is_given_up(stream_file, monkeypatch):
    monkeypatch.setattr(decoding, "_BLIND_S", 0.0)
    packets = _video_packets(stream_file)
    data = stream_file.read_bytes()
    stream_file.write_bytes(data[: packets[0]] + data[packets[1] : packets[GOP]])
    with pytest.raises(SourceError, match="camera shows none; set its interval"):
        list(_shots(stream_file))


def test_after_a_gap_no_picture_is_broken_and_the_lost_ones_are_counted(stream_file, moved):
    packets = _video_packets(stream_file)
    data = stream_file.read_bytes()
    stream_file.write_bytes(data[: packets[23]] + data[packets[25] :])
    seen = [moved(picture) for picture in _pictures(stream_file)]
    assert seen.count(None) >= 5
    whole = [index for index in seen if index is not None]
    assert whole[:20] == list(range(20))
    assert whole[-30:] == list(range(30, 60))


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_are_overcome_with_the_next_key_frame(stream_file, moved, seed):
    packets = _video_packets(stream_file)
    data = np.fromfile(stream_file, np.uint8)
    data[np.random.default_rng(seed).integers(packets[11], packets[38], 40)] ^= 0x55
    data.tofile(stream_file)
    assert [moved(picture) for picture in _pictures(stream_file)[-20:]] == list(range(40, 60))


def test_the_size_may_change_within_a_stream(tmp_path):
    import cv2

    parts = []
    for index, (height, width) in enumerate([(48, 64), (96, 128)] * 2):
        image = np.full((height, width, 3), 50 * index, np.uint8)
        parts.append(cv2.imencode(".jpg", image)[1].tobytes())
    (tmp_path / "camera.mjpeg").write_bytes(b"".join(parts))
    shapes = [picture.shape for picture in _pictures(tmp_path / "camera.mjpeg")]
    assert shapes == [(48, 64, 3), (96, 128, 3)] * 2


def test_times_never_run_backwards_when_packets_are_reordered(write_stream, moved):
    path = write_stream(30, bf="3")
    shots = _all_shots(path)
    assert [moved(image_hwc) for image_hwc, _ in shots] == list(range(30))
    assert (np.diff([taken_ns for _, taken_ns in shots]) >= 0).all()
    paced = _all_shots(path, taken_ns=Pace(threading.Event()))
    steps_ns = np.diff([taken_ns for _, taken_ns in paced])
    np.testing.assert_allclose(steps_ns, 40_000_000, atol=20_000)


def test_a_closed_stream_ends_without_an_error(stream_file):
    closed = threading.Event()
    shots = _shots(stream_file, closed)
    next(shots)
    closed.set()
    assert len(list(shots)) <= 1


def test_sound_alone_is_no_stream(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(stream.encode(silence))
    with pytest.raises(SourceError, match="camera holds none; check the address"):
        next(_shots(tmp_path / "sound.mkv"))


def test_bursts_are_paced_and_a_jump_of_their_clock_is_not_waited_for(stream_file):
    start_s = time.monotonic()
    shots = _shots(stream_file, taken_ns=Pace(threading.Event()))
    stamps_ns = [next(shots)[1] for _ in range(6)]
    assert time.monotonic() - start_s > 0.18
    np.testing.assert_allclose(np.diff(stamps_ns), 40_000_000, atol=20_000)
    pace = Pace(threading.Event())
    for seconds in (5, 5000, 3):
        packet = SimpleNamespace(dts=seconds, pts=seconds, time_base=1)
        assert abs(pace(packet) - time.monotonic_ns()) < 1e9
    closed = threading.Event()
    pace = Pace(closed)
    pace(SimpleNamespace(dts=1, pts=1, time_base=1))
    threading.Timer(0.1, closed.set).start()
    start_s = time.monotonic()
    pace(SimpleNamespace(dts=2, pts=2, time_base=1))
    assert time.monotonic() - start_s < 0.9


def test_a_stamp_counts_when_it_is_on_our_clock():
    taken_ns = time.monotonic_ns() - 50_000_000
    packet = SimpleNamespace(dts=None, pts=taken_ns // 1000, time_base=1e-6)
    assert stamp_ns(packet) == pytest.approx(taken_ns, abs=2000)
    elsewhere = SimpleNamespace(dts=None, pts=int(time.time() * 1e6), time_base=1e-6)
    assert time.monotonic_ns() - stamp_ns(elsewhere) < 1e9


def test_a_stream_is_gone_when_it_is_silent_for_too_long(monkeypatch):
    class Silent:
        streams = SimpleNamespace(video=[SimpleNamespace()])

        def demux(self, stream):
            raise av.error.BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(decoding, "_POLL_S", 0.01)
    shots = stream_shots(
        av, Silent(), threading.Event(), "camera", silence_s=0.1, taken_ns=arrival_ns
    )
    with pytest.raises(SourceError, match="camera is silent for 0 s"):
        next(shots)


def test_a_file_is_decoded_over_its_damage(stream_file, moved):
    packets = _video_packets(stream_file)
    data = bytearray(stream_file.read_bytes())
    data[packets[30] : packets[31]] = b"\0" * (packets[31] - packets[30])
    stream_file.write_bytes(bytes(data))
    with av.open(str(stream_file)) as container:
        times_s = [time_s for _, time_s in file_pictures(av, container, [])]
    assert len(times_s) >= 50
    assert times_s[0] == 0
