"""Draw masks of what you say on images and videos."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from ..bundle import Bundle
from ..errors import SourceError, UnknownNameError, UsageError
from ..masks import Masks
from ..options import add_engine, add_json
from ..progress import Progress
from ..prompt import prompts_from
from ..segmenter import Segmenter
from ..shelf import newest_bundle
from ..sinks import JsonLines, MaskPictures, OverlayPicture, OverlayVideo, Sink, distinct_stems
from ..sources import Frame, Source, open_sources
from ..table import table

__all__ = ["add_arguments", "run"]

_OUT = Path("out")
_HEADER = ("source", "phrase", "frames", "found", "score", "area", "ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask segment`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="image, video, folder of images, or a quoted glob"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="WORDS",
        dest="prompts",
        help='what to segment, as "the red mug left of the lamp"; give it again for more masks',
    )
    parser.add_argument(
        "--bundle", metavar="REF", help="bundle to use (default: the newest in ./bundles/)"
    )
    parser.add_argument("--template", metavar="NAME", help="wrap the words as the bundle says")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where pictures go (default: {_OUT}, or nowhere with --json)",
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write pictures, or an MP4 of a video, with the masks drawn on them",
    )
    parser.add_argument("--masks", action="store_true", help="write each mask as a PNG of its own")
    add_json(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Segment every frame; a source that fails is reported and the next one has its turn."""
    if args.masks and args.json and not args.out:
        raise UsageError("--masks with --json must have --out; got none; say where masks go")
    folder = _folder(args)
    sources = open_sources(args.source)
    stems = distinct_stems([source.name for source in sources])
    rows, exit_code = [], 0
    with Progress("frames") as progress:
        reference = args.bundle or _newest_bundle(progress)
        with Segmenter.open(reference, device=args.device, threads=args.threads) as segmenter:
            phrases = _phrases(args.prompts, args.template, segmenter.bundle)
            for source, stem in zip(sources, stems, strict=True):
                tally = _Tally(source, progress)
                sinks = [*_sinks(source, folder and folder / stem, args), tally]
                try:
                    _segment(segmenter, source, phrases, sinks)
                except SourceError as error:
                    progress.say(f"error: {error}")
                    exit_code = error.exit_code
                rows += tally.rows()
        if folder and rows:
            progress.say(f"pictures are in {folder}")
    if not args.json:
        print(table(_HEADER, rows))
    return exit_code


def _newest_bundle(progress: Progress) -> Path:
    folder = newest_bundle()
    progress.say(f"using {folder}")
    return folder


def _phrases(prompts: list[str], template: str | None, bundle: Bundle) -> dict[str, str]:
    """Map the text that the system reads to the user's words."""
    templates = dict(bundle.manifest.templates)
    if template and template not in templates:
        raise UnknownNameError(f"the template of {bundle.folder.name}", template, templates)
    pattern = templates[template] if template else "{phrase}"
    words = [prompt.text for prompt in prompts_from(prompts)]
    return {pattern.replace("{phrase}", phrase): phrase for phrase in words}


def _folder(args: argparse.Namespace) -> Path | None:
    """Where pictures go; None when none are wanted."""
    if not (args.overlay or args.masks):
        return None
    return args.out or (None if args.json else _OUT)


def _sinks(source: Source, stem: Path | None, args: argparse.Namespace) -> list[Sink]:
    """Open what the flags ask for; pictures begin with `stem`."""
    sinks: list[Sink] = [JsonLines(sys.stdout)] if args.json else []
    if stem and args.overlay:
        sinks.append(OverlayVideo(stem) if source.is_moving else OverlayPicture(stem))
    if stem and args.masks:
        sinks.append(MaskPictures(stem))
    return sinks


def _segment(
    segmenter: Segmenter, source: Source, phrases: dict[str, str], sinks: list[Sink]
) -> None:
    """Hand the masks of every frame, labelled with the user's words, to every sink."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        for frame in source.frames():
            masks = segmenter.segment(frame.image_hwc, list(phrases))
            masks = replace(masks, labels=tuple(phrases[label] for label in masks.labels))
            for sink in sinks:
                sink.write(frame, masks)


class _Tally(Sink):
    """Counts the frames of a source and keeps the figures of the table."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self._name = source.name
        self._progress = progress
        self._seen: dict[str, list[tuple[float, float, float]]] = {}

    def write(self, frame: Frame, masks: Masks) -> None:
        total_ms = sum(ms for _, ms in masks.timings_ms)
        areas = masks.boolean.mean(axis=(1, 2)).tolist()
        for label, score, area in zip(masks.labels, masks.scores.tolist(), areas, strict=True):
            self._seen.setdefault(label, []).append((score, area, total_ms))
        self._progress.step()

    def rows(self) -> list[tuple[object, ...]]:
        """Say in how many frames each phrase was found, and means over those."""
        rows = []
        for phrase, seen in self._seen.items():
            found = [(score, area) for score, area, _ in seen if area]
            score = fmean(score for score, _ in found) if found else None
            area = f"{fmean(area for _, area in found):.1%}" if found else None
            ms = median(total_ms for _, _, total_ms in seen)
            rows.append((self._name, phrase, len(seen), len(found), score, area, ms))
        return rows
