"""The live page in a real browser, from the words that are typed to the pixels they color."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from saymask.runtime import Segmenter
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.masks import Masks
from saymask.runtime.overlay import PALETTE_RGB
from saymask.runtime.page import Page
from saymask.runtime.sources import Frame

from .browser import CHROMIUM, Browser, open_browser, wait_until

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium here; run: apt-get install --no-install-recommends chromium"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(autouse=True)
def _laptop(browser: Browser) -> None:
    browser.size(1280, 860)


@contextmanager
def streaming(page: Page, frame: np.ndarray, masks_of: Callable[[], Masks]) -> Iterator[None]:
    """Writes to the page, 20 times a second, what a camera on `frame` would give."""
    is_over = threading.Event()

    def write() -> None:
        for index in range(10_000):
            if is_over.wait(0.05):
                return
            captured_ns = time.monotonic_ns()
            shown = Frame(
                image_hwc=frame, name="cam", index=index, captured_ns=captured_ns, time_s=0
            )
            page.write(shown, masks_of())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture
def red_masks(frame) -> Masks:
    return Masks.of(frame[None, ..., 0] > 200, np.float32([0.9]), ("the red square",))


def shows(browser: Browser, at_xy: tuple[int, int], rgb: tuple[int, int, int]) -> bool:
    """Say whether a pixel of the frame of 120 x 90 is seen in a color."""
    box = browser.evaluate("document.querySelector('#picture').getBoundingClientRect().toJSON()")
    row = round(box["y"] + box["height"] * at_xy[1] / 90)
    column = round(box["x"] + box["width"] * at_xy[0] / 120)
    seen_bgr = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert seen_bgr is not None
    return bool(np.abs(seen_bgr[row, column, ::-1].astype(int) - rgb).max() < 25)


RED, BLUE = (255, 0, 0), (0, 0, 255)
MASKED_RED, MASKED_BLUE = (
    tuple(np.rint(0.55 * np.array(rgb) + 0.45 * np.array(PALETTE_RGB[0])).astype(int).tolist())
    for rgb in (RED, BLUE)
)
ON_RED_XY, ON_BLUE_XY = (30, 40), (90, 50)


def test_what_is_typed_is_masked(browser, tiny_bundle, frame) -> None:
    board = PromptBoard("the red square")
    with (
        Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter,
        Page("127.0.0.1:0", board) as page,
        streaming(page, frame, lambda: segmenter.segment(frame, board.read()[1])),
    ):
        browser.open(page.url)
        wait_until(lambda: browser.text("#state") == "live")
        wait_until(lambda: shows(browser, ON_RED_XY, MASKED_RED))
        assert shows(browser, ON_BLUE_XY, BLUE)
        assert browser.text("#phrases b") == "the red square"
        assert "fps" in browser.text("dl")
        assert "image" in browser.text("#stages")

        browser.type("the blue square")
        wait_until(lambda: board.read()[0] == 1)
        wait_until(lambda: browser.text("#phrases b") == "the blue square")
        wait_until(lambda: shows(browser, ON_BLUE_XY, MASKED_BLUE))
        assert shows(browser, ON_RED_XY, RED)
        assert browser.value("#phrase") == ""

        browser.click("#phrase")
        browser.evaluate("document.querySelector('#phrase').value = 'the red square'")
        browser.click("button[value=add]")
        wait_until(lambda: [each.text for each in board.read()[1]][1:] == ["the red square"])
        wait_until(lambda: browser.count("#phrases li") == 2)
        browser.click("#phrases li button")
        wait_until(lambda: browser.text("#phrases").startswith("the red square"))


def test_a_refusal_is_shown_and_the_words_stay(browser, frame, red_masks) -> None:
    board = PromptBoard("the red square")
    with Page("127.0.0.1:0", board) as page, streaming(page, frame, lambda: red_masks):
        browser.open(page.url)
        wait_until(lambda: browser.count("#phrases li"))
        browser.type("x" * 10_000)
        wait_until(lambda: "got 10000; say it shorter" in browser.text("#complaint"))
        assert len(browser.value("#phrase")) == 10_000
        assert board.read()[0] == 0


def test_phrases_are_text_and_nothing_else(browser, frame, red_masks) -> None:
    words = "<img src=x onerror=\"document.title='broken'\"> & <b>bold</b>"
    with Page("127.0.0.1:0", PromptBoard(words)) as page:
        page.write(
            Frame(image_hwc=frame, name="cam", index=0, captured_ns=0, time_s=None), red_masks
        )
        browser.open(page.url)
        wait_until(lambda: shows(browser, ON_RED_XY, MASKED_RED))
        assert browser.text("#phrases b") == words
        assert browser.count("#phrases img") == browser.count("#phrases b b") == 0
        assert browser.evaluate("document.title") == "saymask"


def test_the_page_says_that_the_stream_has_stopped_and_finds_it_again(
    browser, frame, red_masks
) -> None:
    board = PromptBoard("the red square")
    with Page("127.0.0.1:0", board, token="s3cret") as page:
        port = urlsplit(page.url).port
        with streaming(page, frame, lambda: red_masks):
            browser.open(f"{page.url}?token=s3cret")
            wait_until(lambda: shows(browser, ON_RED_XY, MASKED_RED))
            assert browser.evaluate("location.href") == page.url
    wait_until(lambda: browser.text("#state") == "stopped")
    assert "The stream has stopped" in browser.text("#notice")
    upside_down = Masks.of(red_masks.boolean[:, ::-1], red_masks.scores, red_masks.labels)
    with (
        Page(f"127.0.0.1:{port}", board) as page,
        streaming(page, frame[::-1], lambda: upside_down),
    ):
        wait_until(lambda: browser.text("#state") == "live")
        wait_until(lambda: shows(browser, (30, 65), MASKED_RED))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (320, 640)])
def test_nothing_sticks_out_of_a_phone(browser, frame, red_masks, width, height) -> None:
    phrases = ["the red square", "a-word-as-long-as-" + "this" * 40, "and some more of them"]
    board = PromptBoard(phrases)
    with Page("127.0.0.1:0", board) as page, streaming(page, frame, lambda: red_masks):
        browser.size(width, height)
        browser.open(page.url)
        wait_until(lambda: browser.count("#phrases li") == 3)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
