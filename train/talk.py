"""What a language model is asked about a cached scene, in SAM4MLLM's words.

Boxes, points, both at once, and questions that words answer; the truth comes from the scene's maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional

from ..runtime.systems.sam4mllm_protocol import COUNTS
from ..runtime.systems.sam4mllm_text import (
    ObjectPrompt,
    PointGroup,
    box_answer,
    box_question,
    group_answer,
    group_question,
    points_answer,
    points_question,
    to_thousandths,
    turn,
)
from .cache import CATEGORY_NAMES, SceneCache
from .packing import TRUNK, Tokens, Turn
from .sayings import GROUPS, QUESTIONS, Saying
from .world.templates import SEMANTIC_PREFIX

ONE, SOME, ANY = COUNTS
"""How many objects a question expects."""
POINTS = 8
"""Most points that are asked about in one box."""
POSITIVE, NEGATIVE = 2, 1
"""Points of a group (SAM4MLLM, section 3.2)."""
MARGIN = 0.1
"""Points are asked about up to this share of a side outside of the box, as guessed boxes err."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkMix:
    """Share of each kind of turn; they add up to one."""

    shares: Mapping[str, float] = field(
        default_factory=lambda: {
            "single": 0.3, "part": 0.1, "semantic": 0.07, "multi": 0.25, "absent": 0.08,
            "points": 0.12, "groups": 0.02, "words": 0.06,
        }
    )  # fmt: skip
    """Kind -> share; a kind that a scene has nothing for becomes "single"."""


class Talk:
    """Draws turns about the scenes of a cache."""

    def __init__(
        self,
        cache: SceneCache,
        boxes: np.ndarray,
        sayings: Sequence[Saying],
        tokens: Tokens,
        grid_hw: tuple[int, int],
    ) -> None:
        """Look up what is said about each scene.

        Args:
            cache: Scenes and phrases.
            boxes: What `scene_boxes` gave.
            sayings: What `open_sayings` gave; () to do without groups and words.
            tokens: The language model's.
            grid_hw: Rows and columns of the vision tower's patches.
        """
        self.cache, self.boxes, self.tokens, self.grid_hw = cache, boxes, tokens, grid_hw
        self._numbers = set(tokens.number_ids().tolist())
        self._said: dict[tuple[int, str], list[Saying]] = {}
        for one in sayings:
            self._said.setdefault((one.scene, one.task), []).append(one)
        self._phrases: dict[tuple[int, str], list[int]] = {}
        pairs = zip(cache.phrases.scene.tolist(), cache.phrases.task.tolist(), strict=True)
        for row, pair in enumerate(pairs):
            self._phrases.setdefault(pair, []).append(row)

    def turns(
        self, scene: int, rng: np.random.Generator, mix: TalkMix, *, tokens: int
    ) -> list[Turn]:
        """Draw turns about a scene until `tokens` are spoken; the last one may go beyond."""
        kinds, shares = list(mix.shares), list(mix.shares.values())
        turns, spoken = [], 0
        while spoken < tokens:
            kind = kinds[rng.choice(len(kinds), p=shares)]
            one = self._turn(scene, kind, rng) or self._point_out(scene, "single", rng)
            turns.append(one)
            spoken += len(one.ids)
        return turns

    def _turn(self, scene: int, kind: str, rng: np.random.Generator) -> Turn | None:
        ways = {
            "multi": self._ask_for_several,
            "absent": self._ask_for_absent,
            "points": self._ask_about_points,
            "groups": self._ask_for_groups,
            "words": self._ask_for_words,
        }
        return ways[kind](scene, rng) if kind in ways else self._point_out(scene, kind, rng)

    def _point_out(self, scene: int, task: str, rng: np.random.Generator) -> Turn:
        text, masks, boxes = self._phrase(scene, task, rng)
        count = rng.choice((ONE, ANY) if task != "semantic" else (SOME, ANY))
        return self._box_turn(text, str(count), masks, boxes)

    def _phrase(
        self, scene: int, task: str, rng: np.random.Generator
    ) -> tuple[str, np.ndarray, np.ndarray]:
        """Draw a phrase; return it with the masks and boxes of what it means."""
        phrases = self.cache.phrases
        said = (self._phrases.get((scene, each)) for each in (task, "single", "semantic", "part"))
        row = int(rng.choice(next(filter(None, said))))
        text = phrases.texts[row]
        if rng.random() < 0.5:
            text = text.removeprefix(SEMANTIC_PREFIX)
        return text, *self._targets(scene, np.flatnonzero(phrases.objects[row]), phrases.part[row])

    def _targets(
        self, scene: int, objects: Sequence[int] | np.ndarray, part: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return masks bool (n, h, w) and boxes int (n, 4) of what is seen, from left to right."""
        boxes = self.boxes[scene, list(objects), part]
        order = np.lexsort((boxes[:, 1], boxes[:, 0]))
        order = order[boxes[order, 2] > 0]
        instances, parts = self.cache.instance_map[scene], self.cache.part_map[scene]
        masks = instances == np.asarray(objects)[order][:, None, None]
        if part:
            masks &= parts == part
        return masks, to_thousandths(boxes[order], (1, 1))

    def _box_turn(self, text: str, count: str, masks: np.ndarray, boxes: np.ndarray) -> Turn:
        made = Turn()
        pieces = turn(box_question(text, count), box_answer(boxes), is_first=True)
        numbers = self._written_numbers(made, made.add(self.tokens, pieces))
        for index, cover in enumerate(self._covers(masks)):
            made.looks += [(at, cover) for at in numbers[4 * index : 4 * index + 4]]
        if len(boxes) == 1:
            made.boxes.append(numbers[0])
        return made

    def _written_numbers(self, made: Turn, written: Sequence[int]) -> list[int]:
        return [at for at in written if made.ids[at] in self._numbers]

    def _covers(self, masks: np.ndarray) -> Iterator[np.ndarray]:
        """Give the share of each patch that a mask covers, together one."""
        for mask in masks:
            pooled = functional.adaptive_avg_pool2d(
                torch.from_numpy(mask)[None].float(), self.grid_hw
            )
            cover = pooled.flatten().numpy()
            yield cover / cover.sum()

    def _ask_for_several(self, scene: int, rng: np.random.Generator) -> Turn | None:
        said = self._said.get((scene, GROUPS))
        if not said:
            return None
        one = said[rng.integers(len(said))]
        count = rng.choice((SOME, ANY)) if one.objects else ANY
        return self._box_turn(one.text, str(count), *self._targets(scene, one.objects))

    def _ask_for_absent(self, scene: int, rng: np.random.Generator) -> Turn | None:
        """Ask for what another scene shows and this one does not, by the category's name."""
        here = {CATEGORY_NAMES[thing - 1] for thing in self.cache.things[scene, :, 0] if thing}
        for row in rng.integers(len(self.cache.phrases.texts), size=8):
            text = self.cache.phrases.texts[row].removeprefix(SEMANTIC_PREFIX)
            named = {name for name in CATEGORY_NAMES if name in text}
            if named and not named <= here:
                return self._box_turn(text, ANY, *self._targets(scene, []))
        return None

    def _ask_about_points(self, scene: int, rng: np.random.Generator) -> Turn | None:
        """Ask for one box and then which points in it lie on the object."""
        text, masks, boxes = self._phrase(scene, str(rng.choice(("single", "part"))), rng)
        if len(boxes) != 1:
            return None
        made = self._box_turn(text, ONE, masks, boxes)
        margin = MARGIN * (boxes[0, 2:] - boxes[0, :2])
        low, high = boxes[0, :2] - margin, boxes[0, 2:] + margin
        points = rng.uniform(low, high, (int(rng.integers(2, POINTS + 1)), 2))
        points = np.clip(np.rint(points), 0, 999).astype(np.int64)
        labels = masks[0][_pixels(points, masks.shape[1:])]
        if rng.random() < 0.3:
            said = turn(points_question(boxes[0], points), points_answer(labels), is_first=False)
            written = made.add(self.tokens, said)
            self._look_at_points(made, written, points)
            return made
        self._ask_one_by_one(made, boxes[0], points, labels)
        return made

    def _ask_one_by_one(
        self, made: Turn, box: np.ndarray, points: np.ndarray, labels: np.ndarray
    ) -> None:
        """Ask about each point by itself, as the batched form does."""
        nothing = points_question(box, points[:0])
        start, words, _ = turn(nothing, is_first=False)
        made.add(self.tokens, (start, words))
        for index, _ in enumerate(points):
            here = slice(index, index + 1)
            question, answer = points_question(box, points[here]), points_answer(labels[here])
            _, _, *rest = turn(question, answer, is_first=False)
            point = replace(words, text=question.removeprefix(nothing))
            written = made.add(self.tokens, (point, *rest), branch=TRUNK + 1 + index)
            self._look_at_points(made, written, points[here])

    def _look_at_points(self, made: Turn, written: Sequence[int], points: np.ndarray) -> None:
        rows, columns = _pixels(points, self.grid_hw)
        for at, row, column in zip(written, rows, columns, strict=False):
            look = np.zeros(self.grid_hw, np.float32)
            look[row, column] = 1
            made.looks.append((at, look.ravel()))

    def _ask_for_groups(self, scene: int, rng: np.random.Generator) -> Turn | None:
        """Ask for boxes and points in one turn."""
        task = str(rng.choice(("single", "semantic", "part")))
        text, masks, boxes = self._phrase(scene, task, rng)
        if not len(boxes):
            return None
        objects = [
            ObjectPrompt(box_xyxy=box, groups=(_group(mask, box, rng),))
            for mask, box in zip(masks, boxes, strict=True)
        ]
        count = ONE if task != "semantic" else SOME
        made = Turn()
        pieces = turn(group_question(text, count), group_answer(objects), is_first=True)
        numbers = self._written_numbers(made, made.add(self.tokens, pieces))
        for cover in self._covers(masks):
            here = [numbers.pop(0) for _ in range(4 + 2 * (POSITIVE + NEGATIVE))]
            made.looks += [(at, cover) for at in here[:4]]
        return made

    def _ask_for_words(self, scene: int, rng: np.random.Generator) -> Turn | None:
        said = self._said.get((scene, QUESTIONS))
        if not said:
            return None
        one = said[rng.integers(len(said))]
        made = Turn()
        made.add(self.tokens, turn(one.text, one.answer, is_first=True))
        return made


def _pixels(points: np.ndarray, size_hw: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of points in thousandths (n, 2) int."""
    height, width = size_hw
    return points[:, 1] * height // 1000, points[:, 0] * width // 1000


def _group(mask: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> PointGroup:
    """Draw points on an object, and one off it in its box where there is such a place."""
    height, width = mask.shape
    inside = np.argwhere(mask)
    left, top, right, bottom = box * [width, height, width, height] // 1000
    window = np.zeros_like(mask)
    window[top : bottom + 1, left : right + 1] = True
    outside = np.argwhere(window & ~mask)
    outside = outside if len(outside) else np.argwhere(~mask)
    chosen = [rng.choice(inside, POSITIVE), rng.choice(outside, NEGATIVE)]
    yx = np.concatenate(chosen) + 0.5
    return PointGroup(
        points_xy=to_thousandths(yx[:, ::-1], (height, width)),
        labels=np.array([1] * POSITIVE + [0] * NEGATIVE),
    )
