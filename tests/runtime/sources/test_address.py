import pytest

from saymask.runtime.errors import UnknownNameError, UsageError
from saymask.runtime.sources.address import positive_number, redacted, size_hw, split_address

READERS = {"fps": positive_number, "size": size_hw}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://camera:554/1", "rtsp://camera:554/1"),
        ("rtsp://me:secret@camera/1", "rtsp://***@camera/1"),
        ("rtsp://me:s/ec?r@et@camera/1", "rtsp://***@camera/1"),
        ("http://camera/video?user=me&pwd=secret", "http://camera/video?***"),
        ("http://camera/video?mail=me@home", "http://***@home"),
        ("https://me:secret@[::1]:80/x?y=1", "https://***@[::1]:80/x?***"),
    ],
)
def test_secrets_are_left_out(address, shown):
    assert redacted(address) == shown


def test_options_are_read():
    reference = "v4l2:///dev/video0?size=1280x720&fps=29.97"
    assert split_address(reference, READERS) == (
        "/dev/video0",
        {"size": (720, 1280), "fps": 29.97},
    )
    assert split_address("v4l2://0", READERS) == ("0", {})


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "nan", "inf"])
def test_a_rate_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="fps must be a number above 0, as 30; got"):
        split_address(f"v4l2://0?fps={text}", READERS)


@pytest.mark.parametrize("text", ["", "1280", "1280x", "0x720", "15x720", "9999x720", "1x2x3"])
def test_a_size_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match=f"size must be WIDTHxHEIGHT.*; got {text!r} in v4l2://0"):
        split_address(f"v4l2://0?size={text}", READERS)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="v4l2:// must be one of fps, size; got 'rate'"):
        split_address("v4l2://0?rate=3", READERS)
