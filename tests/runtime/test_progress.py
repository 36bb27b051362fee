import io

from saymask.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _work(stream: io.StringIO, total: int | None = None) -> str:
    with Progress("frames", total, stream=stream) as progress:
        progress.step()
        progress.say("using bundles/tiny")
        progress.step()
    return stream.getvalue()


def test_a_terminal_sees_one_line_that_is_cleared():
    erase = "\r\x1b[K"
    expected = f"{erase}1/2 frames{erase}saymask: using bundles/tiny\n{erase}2/2 frames{erase}"
    assert _work(Terminal(), 2) == expected


def test_the_total_may_be_unknown():
    assert "\r\x1b[K2 frames" in _work(Terminal())


def test_a_file_gets_the_remarks_alone():
    assert _work(io.StringIO(), 2) == "saymask: using bundles/tiny\n"
