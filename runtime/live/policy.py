"""When a stream picks a frame up, with which prompts, and whether the system is to see it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import PromptError, UsageError
from ..prompt import Prompt
from ..segmenter import Segmenter
from ..sources.frame import Frame
from .prompt_board import PromptBoard
from .stages import INFER, OUTPUT, PREPARE, SOURCE, Slot, StageClock

__all__ = ["LivePolicy", "Picked", "Pickup"]

_LOG = logging.getLogger("saymask")

_LONGEST_WAIT_S = 0.05
_MOST_STRETCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePolicy:
    """How a stream trades quality for time."""

    every: int = 1
    """Each `every`-th frame is a keyframe, which the system sees; those between are tracked."""
    latency_budget_ms: float | None = None
    """Oldest that a live frame should be, from capture, when it is written. A keyframe that would
    be older is tracked instead, until four times `every` frames were. A frame that would be older
    all the same is skipped if a newer one could keep the budget. None: no such limit."""
    stall_s: float = 30.0
    """A stage that is at one frame for longer ends the stream with an error."""
    source_stall_s: float = 330.0
    """So does a source that gives no frame for longer; live sources have looked for a device that
    is gone for `live_frames.PATIENCE_S` by then, and said so."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        budget_ms = math.inf if self.latency_budget_ms is None else self.latency_budget_ms
        if self.every < 1 or min(budget_ms, self.stall_s, self.source_stall_s) <= 0:
            raise UsageError(f"the numbers of a policy must be above 0; got {self}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picked:
    """A frame and what is to be done with it."""

    frame: Frame
    """The frame."""
    prompts: tuple[Prompt, ...]
    """What to segment on it."""
    is_key: bool
    """True when the system is to see it, False when it is tracked."""


class Pickup:
    """Iterates the frames that a stream takes, for one taker.

    A live frame is picked up so late that it reaches each stage just as that one becomes free:
    sooner it would only grow old on its way, later the engines would idle.
    """

    skipped: int
    """Frames that were too old for the budget when they were picked up."""

    def __init__(
        self,
        segmenter: Segmenter,
        board: PromptBoard,
        policy: LivePolicy,
        clock: StageClock,
        prepared: Slot,
        *,
        is_live: bool,
    ) -> None:
        """Watch the board, and the stages on their clock.

        Args:
            segmenter: Knows which prompts can be read.
            board: What to segment.
            policy: Keyframes and budget.
            clock: How long the stages take.
            prepared: Where a picked frame goes; nothing is picked up after it was closed.
            is_live: True when frames come whether or not somebody takes them.

        Raises:
            PromptError: The board's prompts cannot be read.
        """
        self.skipped = 0
        self._segmenter, self._board = segmenter, board
        self._clock, self._prepared, self._is_live = clock, prepared, is_live
        self._every = policy.every
        self._longest = _MOST_STRETCH * policy.every if policy.every > 1 else 1
        budget_ms = policy.latency_budget_ms if is_live else None
        self._budget_ns = math.inf if budget_ms is None else budget_ms * 1e6
        self._has_skipped = False
        self._under_way = 0
        self._since_key: int | None = None  # None while there is nothing to track
        self._key_hwc: tuple[int, ...] = ()
        self._revision, self._prompts = board.read()
        segmenter.check_prompts(self._prompts)

    def picked(self, frames: Iterator[Frame]) -> Iterator[Picked]:
        """Take from `frames`, of which a live source's next one is always the newest."""
        while self._await_turn():
            with self._clock.working(SOURCE):
                frame = next(frames, None)
            if frame is None:
                return
            self._read_board()
            is_key = self._is_key(frame)
            if self._is_skipped(frame, is_key):
                self.skipped += 1
                continue
            if is_key:
                self._since_key, self._key_hwc = 0, frame.image_hwc.shape
            self._since_key = (self._since_key or 0) + 1
            with self._clock.changed:
                self._under_way += 1
            yield Picked(frame=frame, prompts=self._prompts, is_key=is_key)

    def release(self) -> None:
        """Hear that a frame which was picked up has left the last stage."""
        with self._clock.changed:
            self._under_way -= 1
            self._clock.changed.notify_all()

    def _read_board(self) -> None:
        """Take new prompts; those that cannot be read are reported and leave the old ones."""
        revision, prompts = self._board.read()
        if revision == self._revision:
            return
        self._revision = revision
        try:
            self._segmenter.check_prompts(prompts)
        except PromptError as error:
            _LOG.warning("the prompts stay as they were: %s", error)
        else:
            self._prompts, self._since_key = prompts, None

    def _is_key(self, frame: Frame) -> bool:
        since, is_alike = self._since_key, frame.image_hwc.shape == self._key_hwc
        if since is None or since >= self._longest or not is_alike:
            return True
        return since >= self._every and self._age_ns(frame) + self._way_ns(True) <= self._budget_ns

    def _is_skipped(self, frame: Frame, is_key: bool) -> bool:
        """Skip a frame for a newer one; when two in a row are too old, it is the source's doing."""
        way_ns = self._way_ns(is_key)
        is_late = way_ns <= self._budget_ns < self._age_ns(frame) + way_ns
        self._has_skipped = is_late and not self._has_skipped
        return self._has_skipped

    @staticmethod
    def _age_ns(frame: Frame) -> int:
        return time.monotonic_ns() - frame.captured_ns

    def _way_ns(self, is_key: bool) -> float:
        """How long a frame that waits nowhere is on its way, as a rule."""
        stages = (PREPARE, INFER, OUTPUT) if is_key else (OUTPUT,)
        return sum(map(self._clock.usual_ns, stages))

    def _await_turn(self) -> bool:
        """Wait until a frame should be picked up; False when none should any more."""
        with self._clock.changed:
            while not self._prepared.is_closed:
                delay_s = self._delay_ns() / 1e9 if self._is_live else 0
                if delay_s <= 0:
                    return True
                self._clock.changed.wait(min(delay_s, _LONGEST_WAIT_S))
        return False

    def _delay_ns(self) -> float:
        """How much later a frame can be picked up and still keep no stage waiting."""
        if len(self._prepared):
            return math.inf
        clock = self._clock
        infer_left_ns, output_ns = clock.left_ns(INFER), clock.usual_ns(OUTPUT)
        waiting = self._under_way - clock.is_working(OUTPUT)
        output_left_ns = clock.left_ns(OUTPUT) + waiting * output_ns
        if clock.is_working(INFER):
            output_left_ns = max(output_left_ns, infer_left_ns + output_ns)
        next_is_key = self._since_key is None or self._since_key >= self._every
        prepare_ns, infer_ns = map(clock.usual_ns, (PREPARE, INFER)) if next_is_key else (0, 0)
        return max(infer_left_ns - prepare_ns, output_left_ns - prepare_ns - infer_ns)
