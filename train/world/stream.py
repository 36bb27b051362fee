"""The tabletop world as a camera: a clip that plays forth and back at any rate, with its truth."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import replace
from functools import cached_property

import numpy as np

from ...runtime.errors import UnknownNameError, UsageError
from ...runtime.sources.address import positive_number, size_hw, split_address
from ...runtime.sources.live_frames import LiveFrames, Shots
from .clip import compose_clip, scene_at
from .draw import draw
from .phrases import Description, noun_slots, unique_descriptions
from .sight import Seen, look
from .truth import Drawing

_PLACE = "tabletop"
_SPLIT = "test"
_MOST_BYTES = 2 << 30
_LOOK_HW = (240, 320)


class Tabletop:
    """`test://tabletop?fps=30&size=640x480&seed=0&loop=60&seconds=10`; endless without `seconds`.

    `loop` frames are drawn before the first is due, so that none is late because of the drawing.
    Frame k is due k / fps later, and that is its capture time, however late it is taken.
    """

    is_moving = True
    is_live = True

    def __init__(
        self,
        name: str,
        *,
        fps: float = 30.0,
        size: tuple[int, int] = (480, 640),
        seed: int = 0,
        loop: int = 60,
        seconds: float = math.inf,
    ) -> None:
        """Describe the camera; nothing is drawn yet.

        Args:
            name: What the user typed.
            fps: Frames per second.
            size: Height and width in pixels.
            seed: Chooses the scene and its motion, at least 0.
            loop: Frames of the clip, at least 2; they play forth and back.
            seconds: How long it plays.

        Raises:
            UsageError: The clip is too short, or too large to be held.
        """
        height, width = size
        held_bytes = 3 * loop * height * width
        if held_bytes > _MOST_BYTES:
            raise UsageError(
                f"loop x size must fit in {_MOST_BYTES >> 20} MiB; {name} takes "
                f"{held_bytes >> 20}; ask for a smaller size or loop"
            )
        self.name = name
        self._fps = fps
        self._size_hw = size
        self._count = seconds * fps
        self._clip = compose_clip(seed, _SPLIT, loop)
        self._images: list[np.ndarray] = []

    def frames(self) -> LiveFrames:
        """Play from frame 0; see `Source.frames`. Its images are shared and can't be written to."""
        return LiveFrames(self.name, self._shots)

    def truth(self, index: int) -> Drawing:
        """Draw frame `index`, from 0, again with its exact labels."""
        return draw(scene_at(self._clip, self._clip_frame(index)), self._size_hw)

    @cached_property
    def phrases(self) -> tuple[tuple[str, int], ...]:
        """Phrases that name one object in every frame, and its index in `truth(k).scene.objects`.

        They name what can clearly be seen in frame 0; later it may leave the picture for a while.
        """
        view = look(draw(self._clip.scene, _LOOK_HW))
        chance = random.Random(self._clip.scene.seed)
        found = []
        for one in view.clear:
            fitting = (d for d in unique_descriptions(view, one) if self._is_alone(d, one))
            if (description := next(fitting, None)) is not None:
                found.append((str(noun_slots(chance, description)["the"]), one.index))
        return tuple(found)

    def _is_alone(self, description: Description, one: Seen) -> bool:
        """Look at objects outside the picture too, which may come in."""
        things = self._clip.scene.objects
        return sum(description.fits(replace(one, thing=thing)) for thing in things) == 1

    def _clip_frame(self, index: int) -> int:
        last = self._clip.frame_count - 1
        step = index % (2 * last)
        return min(step, 2 * last - step)

    def _shots(self, closed: threading.Event) -> Shots:
        for number in range(len(self._images), self._clip.frame_count):
            if closed.is_set():
                return
            self._images.append(self._draw(number))
        start_ns = time.monotonic_ns()
        index = 0
        while index < self._count:
            due_ns = start_ns + round(index * 1e9 / self._fps)
            if closed.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
                return
            yield self._images[self._clip_frame(index)], due_ns
            index += 1

    def _draw(self, number: int) -> np.ndarray:
        """Draw an image that every round shows, so that nobody may paint on it."""
        image_hwc = self.truth(number).image_hwc
        image_hwc.flags.writeable = False
        return image_hwc


def open_source(reference: str) -> Tabletop:
    """Make the camera of a "test://" address; see `Tabletop`.

    Raises:
        UsageError: The place is not "tabletop", or an option is unknown or makes no sense.
    """
    readers = {
        "fps": positive_number,
        "size": size_hw,
        "seed": _whole_number,
        "loop": _whole_number,
        "seconds": positive_number,
    }
    place, options = split_address(reference, readers)
    if place != _PLACE:
        raise UnknownNameError("the place of test://", place, (_PLACE,))
    return Tabletop(reference, **options)


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number, 0 or more")
    return int(text)
