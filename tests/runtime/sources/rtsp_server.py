"""Serves a moving ball over RTSP, from one encoder to all: PORT MOUNT KEYFRAME_DISTANCE INTERVAL.

With INTERVAL -1 key frames are cut in two, as the parameter sets come before each of their slices.

Run it with the system's Python, which has Debian's GStreamer; every client joins mid-GOP.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=25/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast bitrate=500 key-int-max={distance} ! "
    "rtph264pay name=pay0 config-interval={interval} )"
)


def main() -> None:
    port, mount, distance, interval = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE.format(distance=distance, interval=interval))
    factory.set_shared(True)
    server.get_mount_points().add_factory(mount, factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
