import os
import signal
import threading
import time

import pytest

from saymask.runtime.live.console import has_typist, lines_read, signals_handled, stopped_by_signals


@pytest.fixture
def typed(monkeypatch):
    """Writes to what the process has as stdin."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb", buffering=0) as keyboard:
        monkeypatch.setattr("sys.stdin", stdin)
        yield keyboard


def _await(condition) -> None:
    deadline_s = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def test_the_first_signal_stops_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with signals_handled(print, signal.SIGTERM):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_lines_come_as_they_are_typed_also_several_at_once(typed):
    lines = []
    with lines_read(lines.append):
        typed.write(b"the red mug\n")
        _await(lambda: lines == ["the red mug"])
        typed.write("größe\nthe kni".encode())
        typed.write(b"fe\n\n")
        _await(lambda: lines[1:] == ["größe", "the knife", ""])
    assert not any(thread.name == "saymask-stdin" for thread in threading.enumerate())


def test_the_end_of_stdin_ends_the_reading_alone(typed):
    lines = []
    with lines_read(lines.append):
        typed.write(b"the last\xff words")
        typed.close()
        _await(lambda: lines == ["the last\ufffd words"])


def test_a_pipe_has_no_typist(typed):
    assert not has_typist()


def test_a_terminal_that_is_not_ours_has_no_typist(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert stdin.isatty()
        assert not has_typist()
