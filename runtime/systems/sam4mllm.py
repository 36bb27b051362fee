"""SAM4MLLM (arXiv 2409.10542): a multimodal language model writes boxes and points for SAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter

import numpy as np

from ..bundle import Bundle
from ..engine import Engine, open_engines
from ..errors import BundleError
from ..geometry import Placement, back, fit, inside_hw
from ..language.opening import open_language
from ..language.parts import Part
from ..masks import Masks, Said
from ..prompt import Prompt, words_of
from ..tiling import TilingSpec, cut, token_order
from ..timing import Stopwatch
from . import SharedQuestions
from .sam4mllm_protocol import protocol_from_settings, tiling_from_settings
from .sam4mllm_talk import Reply, Talk
from .sam4mllm_text import PointGroup, to_pixels

__all__ = ["Sam4Mllm", "open_system"]

STAGES = ("image", "vision", "mask")
LANGUAGE = "language"
SYSTEM = "sam4mllm"
_NO_POINTS = PointGroup(points_xy=np.zeros((0, 2), np.int64), labels=np.zeros(0, np.int64))
_CORNERS = (2, 3)
"""SAM's labels of a box's corners, left above and right below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """A frame and N prompts as the engines take them."""

    texts: tuple[str, ...]
    """The words of each prompt."""
    questions: tuple[list[int], ...]
    """Token ids of each prompt's first question."""
    sam_view: np.ndarray
    """(1, 3, h, w) float32, the frame as SAM sees it."""
    tiles: np.ndarray
    """(tiles, 3, h, w) float32, the frame as the language model's vision tower sees it."""
    placement: Placement
    """Where the frame lies in SAM's view."""
    timings_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage so far."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Inferred:
    """What the engines made of it."""

    texts: tuple[str, ...]
    """The words of each prompt."""
    replies: tuple[Reply, ...]
    """What the language model says of each."""
    logits: tuple[np.ndarray, ...]
    """For each prompt (objects, h, w) float32 over SAM's view."""
    placement: Placement
    """Where the frame lies in SAM's view."""
    timings_ms: tuple[tuple[str, float], ...]
    """Milliseconds of each stage so far."""


def open_system(
    bundle: Bundle, *, device: str, threads: int | None, language_backend: str = "llamacpp"
) -> Sam4Mllm:
    """Open SAM4MLLM's engines and its language model.

    Args:
        bundle: Where they lie.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: Threads of the CPU; None leaves one for each physical core.
        language_backend: Key of `language.opening.DECODERS`.
    """
    protocol = protocol_from_settings(bundle.manifest.settings)
    tiling = tiling_from_settings(bundle.manifest.settings, bundle.view("vision"))
    language = open_language(
        bundle.folder / bundle.stage(LANGUAGE).file,
        context_tokens=protocol.context_tokens,
        device=device,
        threads=threads,
        backend=language_backend,
    )
    try:
        talk = Talk(language, protocol, _most_tokens(tiling))
        return Sam4Mllm(bundle, open_engines(bundle, STAGES, device=device, threads=threads), talk)
    except BaseException:
        language.close()
        raise


class Sam4Mllm:
    """One mask for each prompt; SAM and the language model see the frame once for all of them.

    Fig. 2 of the paper, PQPP; in PPG (Fig. 1) the model writes points beside the box at once::

        frame -> view "vision" -> stage "vision" -> image tokens -+
        words -> question ----------------------> word tokens ----+-> stage "language"
                                                                            |
              +-----------------------------------------------"[281,251,863,999]", a box
              v                                                             |
        is (822,771) on it? (577,915)? ... -> stage "language", one batch   |
                                                            |               |
                                               surely on it or off it       |
                                                            v               v
        frame -> view "sam" -> stage "image" -> features -> stage "mask" with both -> masks
    """

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine], talk: Talk) -> None:
        """Take the engines of `STAGES` and the language model's talk."""
        self._bundle = bundle
        self._sam = bundle.view("sam")
        self._tiling = tiling_from_settings(bundle.manifest.settings, bundle.view("vision"))
        self._engines = engines
        self._talk = talk

    @property
    def device(self) -> str:
        """Where it computes: "cpu" or "cuda:N"."""
        return self._engines["image"].device

    def check_prompts(self, prompts: tuple[Prompt, ...]) -> None:
        """Raise a PromptError if a prompt is too long, or has references or a history."""
        for text in words_of(prompts, SYSTEM):
            self._talk.question(text)

    def prepare(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> _Prepared:
        """Turn a frame (H, W, 3) uint8 RGB into view and tiles, and prompts into token ids.

        Raises:
            FrameError: The frame is not such an array.
            PromptError: A prompt is too long, or has references or a history.
        """
        watch = Stopwatch()
        with watch.lap("words"):
            texts = words_of(prompts, SYSTEM)
            questions = tuple(map(self._talk.question, texts))
        with watch.lap("views"):
            sam_view, placement = fit(frame, self._sam)
            tiles = cut(frame, self._tiling)
        return _Prepared(
            texts=texts,
            questions=questions,
            sam_view=sam_view,
            tiles=tiles,
            placement=placement,
            timings_ms=watch.laps_ms,
        )

    def infer(self, prepared: _Prepared) -> _Inferred:
        """Encode the frame for both, ask about each prompt, and draw what was answered.

        Raises:
            EngineError: A stage failed.
        """
        watch = Stopwatch()
        with watch.lap("image"):
            features = self._engines["image"].run({"image": prepared.sam_view})
        with watch.lap("vision"):
            image = self._image_tokens(prepared.tiles, prepared.placement.frame_hw)
        replies = self._talk.replies(image, prepared.questions, watch)
        with watch.lap("mask"):
            logits = self._draw(features, replies, prepared.placement)
        return _Inferred(
            texts=prepared.texts,
            replies=tuple(replies),
            logits=logits,
            placement=prepared.placement,
            timings_ms=prepared.timings_ms + watch.laps_ms,
        )

    def finish(self, inferred: _Inferred) -> Masks:
        """Bring the logits back to the frame's size and cut them: one mask for each prompt."""
        watch = Stopwatch()
        with watch.lap("back"):
            frame_hw = inferred.placement.frame_hw
            boolean = np.zeros((len(inferred.texts), *frame_hw), np.bool_)
            scores = np.zeros(len(inferred.texts), np.float32)
            for number, logits_nhw in enumerate(inferred.logits):
                boolean[number], scores[number] = self._joined(logits_nhw, inferred.placement)
            masks = Masks.of(boolean, scores, inferred.texts)
        return replace(
            masks,
            answer="\n".join(reply.answer for reply in inferred.replies),
            said=tuple(_said(reply, frame_hw) for reply in inferred.replies),
            timings_ms=inferred.timings_ms + watch.laps_ms,
        )

    def segment(self, frame: np.ndarray, prompts: tuple[Prompt, ...]) -> Masks:
        """Take the three steps: one mask for each prompt, in their order; see each for errors."""
        return self.finish(self.infer(self.prepare(frame, prompts)))

    def answer(self, frame: np.ndarray, question: Prompt) -> str:
        """Answer a question about a frame (H, W, 3) uint8 RGB in words, without SAM.

        Raises:
            FrameError: The frame is not such an array.
            PromptError: The question is too long, or has references or a history.
            EngineError: A stage failed.
        """
        (text,) = words_of((question,), SYSTEM)
        asked = self._talk.plain_question(text)
        tiles = cut(frame, self._tiling)
        height, width, _ = frame.shape
        return self._talk.words(self._image_tokens(tiles, (height, width)), asked)

    def open_tracker(self) -> None:
        """Return None: SAM4MLLM has no memory of its own."""

    def shared_questions(self, frame: np.ndarray, prompt: Prompt) -> SharedQuestions | None:
        """Return the questions about the points of a box; None in the variant without any."""
        prepared = self.prepare(frame, (prompt,))
        image = self._image_tokens(prepared.tiles, prepared.placement.frame_hw)
        return self._talk.shared_questions(image, prepared.questions[0])

    def reading(self, frame: np.ndarray, prompt: Prompt) -> tuple[Part, ...]:
        """Return what its language model reads for a prompt, what it answers among it."""
        prepared = self.prepare(frame, (prompt,))
        image = self._image_tokens(prepared.tiles, prepared.placement.frame_hw)
        return self._talk.reading(image, prepared.questions[0])

    def with_engines(self, wrap: Callable[[Engine], Engine]) -> Sam4Mllm:
        """Return the same system on what `wrap` gives for each of its engines."""
        engines = {name: wrap(engine) for name, engine in self._engines.items()}
        return Sam4Mllm(self._bundle, engines, self._talk)

    def close(self) -> None:
        """Close its engines and its language model."""
        self._talk.close()
        for engine in self._engines.values():
            engine.close()

    def _image_tokens(self, tiles: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
        """Return (n, width) float32, what the language model reads for a frame's tiles."""
        outputs = self._engines["vision"].run({"pixels": tiles})
        embeddings = np.asarray(outputs["image_embeddings"])
        (rows, columns), has_newline = self._tiling.tokens_hw, bool(self._tiling.grids)
        if embeddings.shape[1] != rows * columns + has_newline:
            raise BundleError(
                f"stage 'vision' must make {rows} x {columns} tokens of a tile, and a newline "
                f"where there are grids; it makes {embeddings.shape[1]}; export the bundle again"
            )
        order = token_order(frame_hw, self._tiling)
        return embeddings.reshape(-1, embeddings.shape[-1])[order]

    def _draw(
        self, features: Mapping[str, np.ndarray], replies: Sequence[Reply], placement: Placement
    ) -> tuple[np.ndarray, ...]:
        """Draw what was replied: for each phrase (objects, h, w) float32 logits."""
        shown = [
            _sam_points(one.box_xyxy, group, placement)
            for reply in replies
            for one in reply.objects
            for group in one.groups or (_NO_POINTS,)
        ]
        drawn = iter(self._decode(features, shown))
        planes = [
            [
                max(islice(drawn, max(1, len(one.groups))), key=itemgetter(0))[1]
                for one in reply.objects
            ]
            for reply in replies
        ]
        return tuple(np.array(those or np.zeros((0, 1, 1)), np.float32) for those in planes)

    def _decode(
        self, features: Mapping[str, np.ndarray], shown: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> list[tuple[float, np.ndarray]]:
        """Return the predicted IoU and the (h, w) logits of SAM's best mask for each set of points.

        Sets of one size go together: SAM would look at what fills a smaller one up.
        """
        drawn: dict[int, tuple[float, np.ndarray]] = {}
        for size in {len(labels) for _, labels in shown}:
            alike = [at for at, (_, labels) in enumerate(shown) if len(labels) == size]
            points_xy, labels = (np.stack([shown[at][part] for at in alike]) for part in (0, 1))
            outputs = self._engines["mask"].run(
                {**features, "points_xy": points_xy, "labels": labels}
            )
            logits, iou = np.asarray(outputs["logits"]), np.asarray(outputs["iou"])
            best = iou.argmax(axis=1)
            for row, at in enumerate(alike):
                drawn[at] = float(iou[row, best[row]]), logits[row, best[row]]
        return [drawn[at] for at in range(len(shown))]

    def _joined(self, logits_nhw: np.ndarray, placement: Placement) -> tuple[np.ndarray, float]:
        """Return one mask (H, W) bool of all objects, and its mean foreground probability."""
        boolean, scores = back(
            logits_nhw, placement, threshold=self._bundle.manifest.mask_threshold
        )
        areas_px = boolean.sum(axis=(1, 2))
        return np.logical_or.reduce(boolean), float(scores @ areas_px / max(areas_px.sum(), 1))


def _most_tokens(tiling: TilingSpec) -> int:
    """Return how many tokens a frame takes at most: one that fills a grid leaves nothing black."""
    height, width = tiling.view.size_hw
    grids = tiling.grids or ((1, 1),)
    return max(len(token_order((down * height, along * width), tiling)) for down, along in grids)


def _sam_points(
    box_xyxy: np.ndarray, group: PointGroup, placement: Placement
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) float32 on SAM's canvas and labels (n,) int64, the corners last."""
    points_xy = np.concatenate([group.points_xy, box_xyxy.reshape(2, 2)])
    return to_pixels(points_xy, inside_hw(placement)), np.append(group.labels, _CORNERS)


def _said(reply: Reply, frame_hw: tuple[int, int]) -> Said:
    boxes = np.array([one.box_xyxy for one in reply.objects]).reshape(-1, 4)
    chances = reply.confidences
    return Said(
        answer=reply.answer,
        reason=reply.reason,
        boxes_xyxy=to_pixels(boxes, frame_hw),
        points_xy=to_pixels(reply.points_xy, frame_hw),
        labels=reply.labels,
        confidences=None if chances is None else chances.astype(np.float32),
    )
