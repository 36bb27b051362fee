"""Frames to calibrate on, of whatever the user points at: few, far apart, no two nearly alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..runtime.errors import SourceError, UsageError
from ..runtime.sources import Frame, Source, Still, open_sources
from .samples import PHRASES_FILE, Sample, read_samples, sampled_pictures

__all__ = [
    "PHRASES_PER_PICTURE",
    "ChosenSamples",
    "calibration_samples",
    "fingerprint",
    "read_phrases",
    "warn_of_likes",
]

PHRASES_PER_PICTURE = 4
"""Phrases of the user's list that each picture without phrases of its own is given."""

_CELLS = 16
_LEAST_STEP = 1.0
_ALIKE_BITS = 20
"""Of 256. Pictures of the drawn world differ in 55 at least, their copies as JPEG of quality 70 or
in half the size in 19 at most, neighboring frames of a clip at 15 Hz in 7 to 21."""
_GOLDEN = (5**0.5 - 1) / 2
_LOG = logging.getLogger("saymask")


@dataclass(frozen=True, slots=True)
class ChosenSamples:
    """Samples that are known by number and read one by one, anew whenever they are gone through."""

    count: int
    """How many there are."""
    read: Callable[[], Iterator[Sample]]
    """Begins to read them; keeps none."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return self.read()


def calibration_samples(source: str, count: int, *, phrases: Sequence[str] = ()) -> ChosenSamples:
    """Choose representative frames and what is said of them.

    Frames lie evenly over a folder or a video; in place of one that nearly equals another, one from
    elsewhere is taken. Where fewer than `count` differ, a warning says how many do.

    Args:
        source: A picture, a folder, a glob or a video, see `runtime.sources.open_sources`; nothing
            live. A folder with `phrases.jsonl` brings its own phrases and masks: `saymask world
            stills` writes such a one of the drawn world.
        count: Most frames to choose, at least 1.
        phrases: What will be said of such frames. They are dealt out in turn, up to
            `PHRASES_PER_PICTURE` to each, and take the place of the folder's own.

    Returns:
        Samples of which one is in memory at a time; to go through them may raise a SourceError too,
        where a line of `phrases.jsonl` or its mask is wrong.

    Raises:
        SourceError: There is no picture, or one that cannot be read.
        UsageError: `count` is below 1, nobody says anything of the frames, or they are live.
    """
    if count < 1:
        raise UsageError(f"--calib-images must be at least 1; got {count}")
    folder = Path(source)
    try:
        if not phrases and (folder / PHRASES_FILE).is_file():
            pictures = sampled_pictures(folder)
            places = _distinct([Still(str(picture)) for picture in pictures], count, source)
            chosen = [pictures[number] for number, _ in places]
            return ChosenSamples(len(chosen), partial(_spoken_of, folder, chosen))
        sources = open_sources(source)
    except OSError as error:
        raise SourceError(f"a source must be readable; {source} is not: {error}") from error
    if not phrases:
        raise UsageError(
            f"calibration needs what will be said of the pictures; {source} has no {PHRASES_FILE}; "
            "write your users' phrases into a file, one a line, and give --calib-phrases FILE"
        )
    places = _distinct(sources, count, source)
    return ChosenSamples(len(places), partial(_dealt, sources, places, phrases))


def read_phrases(path: Path) -> tuple[str, ...]:
    """Read a file with one phrase a line; empty lines do not count.

    Raises:
        SourceError: It cannot be read, or has no phrase.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SourceError(f"phrases must be a readable text; {path} is not: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise SourceError(f"phrases must be a text with one a line; {path} has none; write some")
    return found


def fingerprint(image_hwc: np.ndarray) -> np.ndarray:
    """Return where a picture gets brighter from left to right, cell by cell.

    This is the difference hash (N. Krawetz, "Kind of Like That", 2013) with 16 x 16 cells and a
    least step, below which noise decides. Copies of other size or quality differ in few bits.

    Args:
        image_hwc: (H, W, 3) uint8 RGB.

    Returns:
        (256,) bool.
    """
    gray = image_hwc.astype(np.float32).mean(2)
    for axis, cells in ((0, _CELLS), (1, _CELLS + 1)):
        edges = np.arange(cells + 1) * gray.shape[axis] // cells
        sums = np.add.reduceat(gray, edges[:-1], axis=axis)
        gray = sums / np.expand_dims(np.maximum(np.diff(edges), 1), 1 - axis)
    return (np.diff(gray, axis=1) > _LEAST_STEP).ravel()


def _distinct(sources: Sequence[Source], count: int, reference: str) -> list[tuple[int, int]]:
    """Read everything once to compare; return where the chosen are: source and frame, in order."""
    if any(source.is_live for source in sources):
        raise UsageError(
            f"calibration reads its source twice; {reference} is live; record some of it and give "
            "the file"
        )
    places, prints = [], []
    for number, source in enumerate(sources):
        for frame in source.frames():
            places.append((number, frame.index))
            prints.append(fingerprint(frame.image_hwc))
    chosen = _spread(np.array(prints), count)
    if len(chosen) < count:
        _warn_of_likes(len(prints), reference, len(chosen), count)
    return [places[position] for position in chosen]


def warn_of_likes(frames: Iterable[np.ndarray], reference: str) -> None:
    """Warn where frames are nearly alike, as ranges of the same again and again are too narrow.

    Args:
        frames: (H, W, 3) uint8 RGB each.
        reference: Where they come from, for the warning.
    """
    prints = np.array([fingerprint(frame) for frame in frames])
    chosen = _spread(prints, len(prints))
    if len(chosen) < len(prints):
        _warn_of_likes(len(prints), reference, len(chosen), len(prints))


def _warn_of_likes(total: int, reference: str, differ: int, asked: int) -> None:
    _LOG.warning(
        "of %d frames in %s only %d differ where %d were asked for; ranges may come out too "
        "narrow: give more and more different pictures",
        total,
        reference,
        differ,
        asked,
    )


def _spread(prints: np.ndarray, count: int) -> list[int]:
    """Choose up to `count` positions, evenly where their prints differ."""
    total = len(prints)
    even = (np.arange(count) + 0.5) * total // count
    # Multiples of the golden ratio lie evenly too, however many of them are taken.
    others = np.argsort(np.arange(total) * _GOLDEN % 1, kind="stable")
    chosen: list[int] = []
    for position in dict.fromkeys([*even.astype(int), *others]):
        if len(chosen) == count:
            break
        different = np.count_nonzero(prints[chosen] != prints[position], axis=1)
        if (different > _ALIKE_BITS).all():
            chosen.append(int(position))
    return sorted(chosen)


def _spoken_of(folder: Path, pictures: Sequence[Path]) -> Iterator[Sample]:
    """Read pictures that a folder brings phrases for."""
    for picture in pictures:
        yield from read_samples(folder, pictures=[picture])


def _dealt(
    sources: Sequence[Source], places: Sequence[tuple[int, int]], phrases: Sequence[str]
) -> Iterator[Sample]:
    """Read frames and deal out phrases."""
    wanted = {place: number for number, place in enumerate(places)}
    for which in dict.fromkeys(which for which, _ in places):
        for frame in sources[which].frames():
            number = wanted.get((which, frame.index))
            if number is not None:
                yield _sample(number, frame, phrases)


def _sample(number: int, frame: Frame, phrases: Sequence[str]) -> Sample:
    size = min(PHRASES_PER_PICTURE, len(phrases))
    texts = tuple(phrases[(number * size + place) % len(phrases)] for place in range(size))
    return Sample(frame=frame.image_hwc, texts=texts, tasks=("single",) * size, masks=None)
