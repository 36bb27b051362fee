"""What reaches a verb from outside while it works: signals, and lines that somebody types."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["has_typist", "lines_read", "signals_handled", "stopped_by_signals"]

_LOOK_UP_S = 0.1
_READ_BYTES = 1 << 16


@contextmanager
def signals_handled(handler: Callable[..., object], *numbers: int) -> Iterator[None]:
    """Handle signals while the block runs, but for those that whoever started us has ignored.

    Outside of the main thread, which alone may do so, nothing is changed.

    Args:
        handler: Called in the main thread with the signal's number and the stack frame.
        numbers: The signals, for example `signal.SIGTERM`.
    """
    is_allowed = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if is_allowed}
    mine = [number for number in before if before[number] is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second one of them raises KeyboardInterrupt."""
    stop = threading.Event()

    def handle(*_: object) -> None:
        if stop.is_set():  # by an earlier one, which something holds up
            raise KeyboardInterrupt
        stop.set()

    with signals_handled(handle, signal.SIGINT, signal.SIGTERM):
        yield stop


def has_typist() -> bool:
    """Tell whether stdin is a terminal, and ours: who reads it from the background is stopped."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError):  # on Windows; or a terminal that does not control us
        return False


@contextmanager
def lines_read(take: Callable[[str], None]) -> Iterator[None]:
    """Hand every line of stdin to `take`, in a thread, while the block runs."""
    is_over = threading.Event()

    def read() -> None:
        # Not through sys.stdin, which reads ahead: no select would tell of the lines it has.
        descriptor, rest = sys.stdin.fileno(), b""
        while not is_over.is_set():
            if not select.select([descriptor], [], [], _LOOK_UP_S)[0]:
                continue
            data = os.read(descriptor, _READ_BYTES)
            *lines, rest = (rest + data).split(b"\n")
            if not data:
                lines = [rest] if rest else []
                is_over.set()
            for line in lines:
                take(line.decode(errors="replace"))

    thread = threading.Thread(target=read, name="saymask-stdin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
