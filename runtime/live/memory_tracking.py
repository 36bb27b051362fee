"""Masks between keyframes, found again by what EVF-SAM2 remembers of them (SAM-2's video memory).

Source: SAM 2 (arXiv 2408.00714), section 4, and what its reference implementation lets a frame
remember (`SAM2Base._prepare_memory_conditioned_features`). A keyframe's masks prompt it as masks
do there. EVF-SAM's own script asks the words on a clip's first frame alone and takes the pointer
from their decoding; here the masks may also be a track's, and other words may come at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..engine import Engine
from ..errors import UsageError
from ..geometry import Placement, back, check_frame, fit
from ..masks import Masks
from ..spec import ViewSpec
from ..timing import Stopwatch
from .tracking import FADING, SAME_PLACE_IOU, iou

__all__ = ["MEMORY_STAGES", "MOST_MEMORIES", "MemoryTracker"]

MEMORY_STAGES = ("memory", "track")
"""What a bundle has that can follow masks: a keyframe's masks as memories, and a frame between."""
MOST_MEMORIES = 7
"""A frame is read in the light of its keyframe and of the six frames before it, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Memory:
    """What is left of one object in one frame."""

    number: int
    """Number of the frame."""
    memory_chw: np.ndarray
    """(channels, rows, columns) float32: what the frame looked like and where the object was."""
    pointer: np.ndarray
    """(width,) float32: which object it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Track:
    """What is remembered of one object."""

    key: _Memory
    """Of the last keyframe whose words were believed."""
    recent: tuple[_Memory, ...]
    """Of the frames before the next one, the oldest first; keys are among them."""

    def then(self, memory: _Memory, most: int) -> _Track:
        """Remember one more frame, and `most` frames at most beside the key."""
        return replace(self, recent=(*self.recent, memory)[-most:])

    def last(self, number: int, most: int) -> list[_Memory]:
        """Return the key, and what there is of the `most - 1` frames before frame `number`."""
        near = (each for each in self.recent if number - each.number < most)
        return [self.key, *(each for each in near if each is not self.key)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """A frame in the eyes of the image stage."""

    features: Mapping[str, np.ndarray]
    """What the image stage returned."""
    placement: Placement
    """Where the frame lies in the view."""


class MemoryTracker:
    """Looks at every frame with SAM's image encoder and finds each label's object by its memory.

    An object that is covered or out of view leaves an empty mask, and has one again when it is
    back. A track ends when the words find nothing at a keyframe, or the frame's size changes.

    At a keyframe the words' mask is believed, with the exception that `FlowTracker` makes for what
    is elsewhere and less sure than the label still is: then the track stands. A mask of the words
    becomes the one memory that does not fade; the memories of the last frames stay beside it if
    they are of the same place.
    """

    def __init__(self, engines: Mapping[str, Engine], view: ViewSpec, threshold: float) -> None:
        """Wait for the first keyframe.

        Args:
            engines: "image" and those of `MEMORY_STAGES`; whoever opened them closes them.
            view: What the image stage sees.
            threshold: A pixel belongs to a mask when its logit is above this.
        """
        self._engines, self._view, self._threshold = engines, view, threshold
        shapes = {tensor.name: tensor.shape for tensor in engines["track"].stage.inputs}
        self._most_pointers = int(shapes["pointers"][1])
        self._frame_hw: tuple[int, ...] = ()
        self._number = 0
        self._key: Masks
        self._sureness: np.ndarray
        self._tracks: dict[int, _Track] = {}

    def restart(self, frame_hwc: np.ndarray, masks: Masks) -> Masks:
        """Begin anew from the system's masks of a keyframe.

        Args:
            frame_hwc: (H, W, 3) uint8 RGB.
            masks: The system's masks of this frame. Labels that were tracked before are held
                against their tracks, unless the frame's size has changed; the others are new.

        Returns:
            `masks`, or the track where that stands, with the times of both: "look" at the frame,
            "track" what was followed, "remember" the words' masks.

        Raises:
            UsageError: The masks are not of the frame's size.
            FrameError: `frame_hwc` is not such an array.
            EngineError: A stage failed.
        """
        check_frame(frame_hwc)
        if masks.boolean.shape[1:] != frame_hwc.shape[:2]:
            raise UsageError(
                f"a keyframe's masks must have its size {frame_hwc.shape[:2]}; got "
                f"{masks.boolean.shape[1:]}; pass the frame that was segmented"
            )
        if self._frame_hw != frame_hwc.shape[:2]:
            self._frame_hw = frame_hwc.shape[:2]
            self._key = Masks.of(masks.boolean[:0], masks.scores[:0], ())
            self._sureness, self._tracks = self._key.scores, {}
        watch = Stopwatch()
        self._begin_frame()
        seen = self._look(frame_hwc, watch) if self._tracks or masks.boolean.any() else None
        tracked, memories = self._find(frame_hwc, seen, watch)
        pasts = self._reconcile(masks, tracked, memories)
        if seen and pasts:
            with watch.lap("remember"):
                self._remember(seen, pasts)
        self._key = replace(self._key, timings_ms=masks.timings_ms + watch.laps_ms)
        return self._key

    def follow(self, frame_hwc: np.ndarray) -> Masks:
        """Find every object again in the next frame.

        Args:
            frame_hwc: (H, W, 3) uint8 RGB.

        Returns:
            The masks of the keyframe's labels and the times of "look" and "track". In a frame of
            another size every track ends: all masks are empty.

        Raises:
            UsageError: There was no keyframe.
            FrameError: `frame_hwc` is not such an array.
            EngineError: A stage failed.
        """
        check_frame(frame_hwc)
        if not self._frame_hw:
            raise UsageError("a keyframe must come before the frames between; call `restart` first")
        watch = Stopwatch()
        self._begin_frame()
        if self._frame_hw != frame_hwc.shape[:2]:
            self._tracks = {}
        seen = self._look(frame_hwc, watch) if self._tracks else None
        masks, memories = self._find(frame_hwc, seen, watch)
        self._tracks = {index: self._followed(index, memories) for index in self._tracks}
        return replace(masks, timings_ms=watch.laps_ms)

    def _begin_frame(self) -> None:
        self._number += 1
        self._sureness = self._sureness * np.float32(FADING)

    def _look(self, frame_hwc: np.ndarray, watch: Stopwatch) -> _Seen:
        with watch.lap("look"):
            view, placement = fit(frame_hwc, self._view)
            return _Seen(features=self._engines["image"].run({"image": view}), placement=placement)

    def _find(
        self, frame_hwc: np.ndarray, seen: _Seen | None, watch: Stopwatch
    ) -> tuple[Masks, dict[int, _Memory]]:
        """Draw the mask of every label, and say what this frame leaves of those with a track."""
        boolean = np.zeros((len(self._key), *frame_hwc.shape[:2]), np.bool_)
        scores = np.zeros(len(self._key), np.float32)
        memories: dict[int, _Memory] = {}
        if seen and self._tracks:
            with watch.lap("track"):
                rows = list(self._tracks)
                found = self._engines["track"].run({**seen.features, **self._remembered()})
                logits_nhw = np.asarray(found["logits"])[:, 0]
                boolean[rows], scores[rows] = back(
                    logits_nhw, seen.placement, threshold=self._threshold
                )
                memories = dict(zip(rows, self._memories(found), strict=True))
        masks = Masks.of(boolean, scores, self._key.labels)
        return replace(masks, answer=self._key.answer), memories

    def _remembered(self) -> dict[str, np.ndarray]:
        """Lay out what the tracks remember as the stage "track" takes it."""
        tracks = self._tracks.values()
        lasts = [track.last(self._number, MOST_MEMORIES) for track in tracks]
        slots, (key, *_) = max(map(len, lasts)), lasts[0]
        memories = np.zeros((len(lasts), slots, *key.memory_chw.shape), np.float32)
        ages = np.full((len(lasts), slots), -1, np.int64)
        pointers = np.zeros((len(lasts), self._most_pointers, *key.pointer.shape), np.float32)
        is_pointer = np.zeros((len(lasts), self._most_pointers), np.bool_)
        for row, (track, last) in enumerate(zip(tracks, lasts, strict=True)):
            memories[row, : len(last)] = [each.memory_chw for each in last]
            ages[row, : len(last)] = [0, *(self._number - each.number for each in last[1:])]
            pointed = track.last(self._number, self._most_pointers)
            pointers[row, : len(pointed)] = [each.pointer for each in pointed]
            is_pointer[row, : len(pointed)] = True
        return {
            "memories": memories, "ages": ages, "pointers": pointers, "is_pointer": is_pointer,
        }  # fmt: skip

    def _memories(self, outputs: Mapping[str, np.ndarray]) -> list[_Memory]:
        """Take what a stage leaves of this frame, one for each object that it was asked of."""
        pairs = zip(np.array(outputs["memory"]), np.array(outputs["pointer"]), strict=True)
        return [
            _Memory(number=self._number, memory_chw=memory_chw, pointer=pointer)
            for memory_chw, pointer in pairs
        ]

    def _followed(self, index: int, memories: Mapping[int, _Memory]) -> _Track:
        return self._tracks[index].then(memories[index], self._most_pointers - 1)

    def _reconcile(
        self, masks: Masks, tracked: Masks, memories: Mapping[int, _Memory]
    ) -> dict[int, tuple[_Memory, ...]]:
        """Settle what to believe of a keyframe, and keep the tracks that stand.

        Returns:
            Which masks are the words', and what each goes on to remember of the frames before.
        """
        boolean, scores, sureness = masks.boolean.copy(), masks.scores.copy(), masks.scores.copy()
        before = {label: index for index, label in enumerate(tracked.labels)}
        standing: dict[int, _Track] = {}
        pasts: dict[int, tuple[_Memory, ...]] = {}
        for index, label in enumerate(masks.labels):
            mask_hw, was = masks.boolean[index], before.get(label, -1)
            is_same = was in memories and iou(mask_hw, tracked.boolean[was]) >= SAME_PLACE_IOU
            is_doubted = was >= 0 and not is_same and scores[index] < self._sureness[was]
            if is_doubted:
                sureness[index] = self._sureness[was]
            if not mask_hw.any():
                continue
            if not is_doubted:
                pasts[index] = self._tracks[was].recent if is_same else ()
                continue
            boolean[index], scores[index] = tracked.boolean[was], tracked.scores[was]
            if was in memories:
                standing[index] = self._followed(was, memories)
        self._tracks, self._sureness = standing, sureness
        believed = Masks.of(boolean, scores, masks.labels)
        self._key = replace(believed, answer=masks.answer)
        return pasts

    def _remember(self, seen: _Seen, pasts: Mapping[int, tuple[_Memory, ...]]) -> None:
        """Begin a track from the mask of each key of `pasts`."""
        masks_nchw = _in_view(self._key.boolean[list(pasts)], self._view)
        remembered = self._engines["memory"].run({**seen.features, "masks": masks_nchw})
        for index, key in zip(pasts, self._memories(remembered), strict=True):
            self._tracks[index] = _Track(key=key, recent=(*pasts[index], key))


def _in_view(masks_nhw: np.ndarray, view: ViewSpec) -> np.ndarray:
    """Turn masks (N, H, W) bool of a frame into (N, 1, h, w) float32, 0 or 1, over a view of it."""
    gray = (127.5, 127.5, 127.5)
    plain = replace(
        view, interpolation="bilinear", is_antialiased=True, rounds_to_uint8=False,
        mean_rgb=gray, std_rgb=gray,
    )  # fmt: skip
    pictures = (mask_hw[..., None].repeat(3, -1) * np.uint8(255) for mask_hw in masks_nhw)
    return np.stack([fit(picture, plain)[0][0, :1] > 0 for picture in pictures]).astype(np.float32)
