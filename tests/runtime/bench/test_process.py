import os
import threading

import pytest

from saymask.runtime.bench import process
from saymask.runtime.bench.process import holdings

needs_proc = pytest.mark.skipif(holdings() is None, reason="needs /proc")


def _held() -> process.Holdings:
    held = holdings()
    assert held
    return held


@needs_proc
def test_memory_counts_when_it_is_written_to():
    before = _held().rss_bytes
    ballast = bytearray(os.urandom(1024) * (64 * 1024))
    assert _held().rss_bytes - before > 0.9 * len(ballast)


@needs_proc
def test_an_open_file_counts_until_it_is_closed(tmp_path):
    before = _held().descriptors
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        assert _held().descriptors == before + 2
    assert _held().descriptors == before


@needs_proc
def test_a_thread_counts_while_it_runs():
    before, over = _held().threads, threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert _held().threads == before + 1
    over.set()
    thread.join()


def test_a_system_that_does_not_tell_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "_SELF", tmp_path / "none")
    assert holdings() is None
