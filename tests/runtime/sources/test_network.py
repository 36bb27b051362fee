import http.server
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from saymask.runtime.errors import SourceError
from saymask.runtime.sources import live_frames
from saymask.runtime.sources import network as sources_network
from saymask.runtime.sources.mailbox import newest
from saymask.runtime.sources.network import HttpVideo, RtspStream

RTSP_SERVER = Path(__file__).with_name("rtsp_server.py")
RTSP_PYTHON = "/usr/bin/python3"
RTSP_LINE = (
    "needs: apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
)
BALL_LEVEL = 128
SEGMENT_S = 1


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(live_frames, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(live_frames, "_LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(sources_network, "_SILENCE_S", 1.5)


class Camera(http.server.SimpleHTTPRequestHandler):
    """Sends files, /mjpeg as a camera does, and /live.m3u8 as an endless HLS playlist."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        page = {"/mjpeg": self._send_pictures, "/live.m3u8": self._send_playlist}
        page.get(self.path.partition("?")[0], super().do_GET)()

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _send_pictures(self):
        self._begin("multipart/x-mixed-replace; boundary=next")
        for index in range(1000):
            level, height = (50, 48) if index < 12 else (200, 96)
            jpeg = cv2.imencode(".jpg", np.full((height, 64, 3), level, np.uint8))[1].tobytes()
            if index == 5:
                jpeg = b"\0" * len(jpeg)
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            if self.path.endswith("dies") and index == 8:
                return
            if self.path.endswith("stalls") and index == 8:
                time.sleep(4)
            time.sleep(0.02)

    def _send_playlist(self):
        first = int(time.monotonic() / SEGMENT_S)
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{SEGMENT_S}"]
        lines += [f"#EXT-X-MEDIA-SEQUENCE:{first}"]
        for number in range(first, first + 4):
            lines += ["#EXT-X-DISCONTINUITY", f"#EXTINF:{SEGMENT_S},", f"walk.ts?{number}"]
        self._begin("application/vnd.apple.mpegurl")
        self.wfile.write("\n".join([*lines, ""]).encode())


@pytest.fixture
def http_url(tmp_path):
    """Address, with a password, of a server of `tmp_path` and of a camera."""

    def handler(*words):
        return Camera(*words, directory=str(tmp_path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def rtsp():
    """Starts RTSP servers, each at the port it is given, with a key frame every so often."""
    servers = []

    def start(port: int, distance: int = 10, interval: int = 1) -> subprocess.Popen:
        command = [RTSP_PYTHON, RTSP_SERVER, str(port), "/ball", str(distance), str(interval)]
        try:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError:
            pytest.skip(RTSP_LINE)
        servers.append(server)
        if server.stdout.readline() != b"ready\n":
            pytest.skip(RTSP_LINE)
        return server

    yield start
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def _balls(image_hwc: np.ndarray) -> int:
    """Count the white balls on black; a broken picture has none, pieces or colors."""
    assert np.ptp(image_hwc.astype(int), axis=2).max() < 30
    return cv2.connectedComponents((image_hwc[..., 1] > BALL_LEVEL).astype(np.uint8))[0] - 1


def test_an_rtsp_stream_that_is_joined_mid_gop_begins_whole(rtsp, port):
    rtsp(port, distance=25)
    address = f"rtsp://127.0.0.1:{port}/ball"
    first = RtspStream(address).frames()
    next(first)  # starts the encoder, which all clients share
    time.sleep(0.4)
    joined = RtspStream(address).frames()
    frames = [next(joined) for _ in range(20)]
    joined.close()
    first.close()
    assert [frame.index for frame in frames] == list(range(20))
    assert {_balls(frame.image_hwc) for frame in frames} == {1}
    stamps_ns = [frame.captured_ns for frame in frames]
    assert sorted(stamps_ns) == stamps_ns


def test_key_frames_that_a_server_cuts_in_two_are_left_out(rtsp, port):
    rtsp(port, distance=10, interval=-1)
    stream = RtspStream(f"rtsp://127.0.0.1:{port}/ball").frames()
    frames = [next(stream) for _ in range(30)]
    stream.close()
    assert {_balls(frame.image_hwc) for frame in frames} == {1}


def test_a_killed_rtsp_server_is_taken_up_again_when_it_returns(rtsp, port, caplog):
    server = rtsp(port)
    source = RtspStream(f"rtsp://me:secret@127.0.0.1:{port}/ball")
    with newest(source.frames()) as box:
        next(box)
        server.kill()
        server.wait()
        deadline_s = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < deadline_s:
            time.sleep(0.02)
        rtsp(port)
        last = next(box)
        while caplog.messages[-1] != f"{source.name} is back":
            last = next(box)
        assert next(box).index > last.index
    assert source.name == f"rtsp://***@127.0.0.1:{port}/ball"
    assert caplog.messages[0].startswith(f"a live source must go on; {source.name} ")
    assert "secret" not in caplog.text


def test_an_rtsp_server_that_stays_away_is_given_up(rtsp, port):
    server = rtsp(port)
    frames = RtspStream(f"rtsp://me:secret@127.0.0.1:{port}/ball", patience_s=1.0).frames()
    next(frames)
    server.kill()
    with pytest.raises(
        SourceError, match="must come back within 1 s; rtsp://.*: Connection ref"
    ) as e:
        list(frames)
    assert "secret" not in str(e.value)


def test_a_silent_rtsp_stream_goes_on_and_is_stopped_within_a_second(rtsp, port, monkeypatch):
    monkeypatch.setattr(sources_network, "_SILENCE_S", 10.0)
    server = rtsp(port)
    frames = RtspStream(f"rtsp://127.0.0.1:{port}/ball").frames()
    last = next(frames)
    server.send_signal(signal.SIGSTOP)
    threading.Timer(1.3, server.send_signal, (signal.SIGCONT,)).start()
    for _ in range(30):
        last = next(frames)
    assert last.index == 30
    server.send_signal(signal.SIGSTOP)
    threading.Timer(0.5, frames.close).start()
    start_s = time.monotonic()
    for _ in frames:
        pass
    assert time.monotonic() - start_s < 0.5 + 1.5


@pytest.mark.parametrize("kind", [RtspStream, HttpVideo])
def test_an_address_that_nobody_serves_is_an_error_at_once(kind, port):
    scheme = "rtsp" if kind is RtspStream else "http"
    source = kind(f"{scheme}://me:secret@127.0.0.1:{port}/x?key=secret")
    with pytest.raises(SourceError) as caught:
        next(source.frames())
    said = f"{scheme}://***@127.0.0.1:{port}/x?*** is not: Connection refused; check the address"
    assert said in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__  # it holds the password


def test_a_server_that_accepts_and_says_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(sources_network, "_OPEN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/x"
        for source in (RtspStream(f"rtsp://{address}"), HttpVideo(f"http://{address}")):
            with pytest.raises(SourceError, match="must be reachable"):
                next(source.frames())


def test_an_mjpeg_stream_is_live_and_may_change_its_size(http_url):
    source = HttpVideo(f"{http_url}/mjpeg?user=me&pwd=secret")
    assert source.is_live
    assert "secret" not in source.name
    stream = source.frames()
    frames = [next(stream) for _ in range(20)]
    stream.close()
    assert [frame.index for frame in frames] == [i for i in range(21) if i != 5]  # 5 is damaged
    for frame in frames:
        level, shape = (50, (48, 64, 3)) if frame.index < 12 else (200, (96, 64, 3))
        assert frame.image_hwc.shape == shape
        assert abs(frame.image_hwc.astype(int) - level).max() <= 2
    np.testing.assert_allclose(
        np.diff([frame.time_s for frame in frames])[8:].mean(), 0.02, atol=0.02
    )


@pytest.mark.parametrize("fault", ["dies", "stalls"])
def test_an_mjpeg_stream_that_dies_or_stalls_is_taken_up_again(http_url, fault, caplog):
    stream = HttpVideo(f"{http_url}/mjpeg?{fault}").frames()
    frames = [next(stream) for _ in range(14)]
    stream.close()
    assert frames[-1].index >= 13
    assert "trying again" in caplog.messages[0]
    assert caplog.messages[1].endswith("is back")
    assert ("silent" in caplog.text) == (fault == "stalls")


def test_a_live_playlist_plays_at_its_own_rate(http_url, tmp_path, write_video):
    write_video(tmp_path / "walk.ts", 25)
    source = HttpVideo(f"{http_url}/live.m3u8")
    assert source.is_live
    stream = source.frames()
    start_s = time.monotonic()
    frames = [next(stream) for _ in range(60)]
    stream.close()
    assert 1.5 < time.monotonic() - start_s < 5
    steps_s = np.diff([frame.time_s for frame in frames])
    assert np.median(steps_s) == pytest.approx(0.04, abs=0.005)


def test_a_recording_over_http_is_a_file_of_which_every_frame_counts(
    http_url, tmp_path, write_video
):
    write_video(tmp_path / "walk.mp4", movflags="faststart")
    source = HttpVideo(f"{http_url}/walk.mp4?key=secret")
    assert not source.is_live
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(12))
    assert {frame.name for frame in frames} == {source.name}
    data = (tmp_path / "walk.mp4").read_bytes()
    (tmp_path / "walk.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError, match=r"a video must be whole; .*\*\*\*.* gave .* frames") as e:
        list(HttpVideo(f"{http_url}/walk.mp4?key=secret").frames())
    assert "secret" not in str(e.value)


def test_what_is_no_video_is_refused(http_url, tmp_path):
    (tmp_path / "page.html").write_text("<p>" + "no video " * 1000)
    for page in ("page.html", "nowhere.mp4"):
        with pytest.raises(SourceError, match="must be reachable; http://.*@.* is not"):
            next(HttpVideo(f"{http_url}/{page}").frames())
