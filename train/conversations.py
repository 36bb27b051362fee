"""What SAM4MLLM learns to say: boxes, which points lie on an object, groups of points, answers.

Source: SAM4MLLM (arXiv 2409.10542), sections 3.2 and 4.1, and its released notebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..runtime.systems.sam4mllm_protocol import COUNTS, MINIATURE, Protocol
from ..runtime.systems.sam4mllm_text import (
    ObjectPrompt,
    PointGroup,
    box_answer,
    box_question,
    group_answer,
    group_question,
    points_answer,
    points_question,
    to_pixels,
    to_thousandths,
    turn,
)
from .cache import SceneCache
from .packing import TRUNK, Tokens, Turn
from .phrases import TaskMix
from .point_groups import GROUP_LABELS, Groups
from .points import PLACES, DrawPlaces, is_inside
from .requests import Request, Thing, thing_mask
from .sayings import QUESTIONS

EXACTLY_ONE, ONE_OR_MORE, NONE_OR_MORE = COUNTS
COUNTS_OF = ((NONE_OR_MORE,), (EXACTLY_ONE, NONE_OR_MORE), (ONE_OR_MORE, NONE_OR_MORE))
"""How many objects a question may expect where there is none, one, or several; the released
notebooks write "0+" throughout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRecipe:
    """How pictures are talked about."""

    protocol: Protocol = MINIATURE
    """How the model will be asked."""
    mix: TaskMix = field(
        default_factory=lambda: {"single": 0.4, "part": 0.12, "multi": 0.36, QUESTIONS: 0.12}
    )
    """Share of each task among the requests."""
    requests: int = 6
    """Requests about a picture."""
    places: str = "random"
    """Key of `points.PLACES`."""
    listed: float = 0.25
    """Share of the boxes whose points are asked about in one question, as published; the others
    get a question for each point, side by side."""
    margin: float = 0.1
    """Points lie up to this share of a side outside of the box, since a model's own boxes, which
    hold the points at run time, err; 0 in the paper."""
    most_boxes: int = 5
    """Requests for more things are left out, as their answers are long."""


class Conversations:
    """Turns about cached scenes."""

    def __init__(
        self,
        cache: SceneCache,
        requests: Sequence[Sequence[Request]],
        boxes: np.ndarray,
        groups: Groups,
        tokens: Tokens,
        recipe: ConversationRecipe,
    ) -> None:
        """Talk about scenes.

        Args:
            cache: Scenes.
            requests: What `requests_by_scene` gave.
            boxes: What `scene_boxes` gave.
            groups: What `open_groups` gave; only the variant "ppg" needs them.
            tokens: The language model's.
            recipe: How pictures are talked about.
        """
        self.recipe = recipe
        self._cache, self._groups, self._tokens = cache, groups, tokens
        self._boxes = to_thousandths(boxes, (1, 1))
        self._places: DrawPlaces = PLACES[recipe.places]()
        self._requests = [
            [each for each in of_scene if self._can_answer(scene, each)]
            for scene, of_scene in enumerate(requests)
        ]
        self.scenes = np.array([scene for scene, each in enumerate(self._requests) if each])

    def about(self, scene: int, rng: np.random.Generator) -> list[Turn]:
        """Ask and answer `recipe.requests` things about a scene, in random order.

        Args:
            scene: One of `scenes`.
            rng: Source of every choice.
        """
        asked = self._requests[scene]
        shares = np.array([self._share(asked, each.task) for each in asked])
        count = min(self.recipe.requests, len(asked))
        chosen = rng.choice(len(asked), size=count, replace=False, p=shares / shares.sum())
        return [self._about(scene, asked[which], rng) for which in chosen]

    def _share(self, asked: Sequence[Request], task: str) -> float:
        return self.recipe.mix[task] / sum(each.task == task for each in asked)

    def _can_answer(self, scene: int, request: Request) -> bool:
        if request.task not in self.recipe.mix or len(request.things) > self.recipe.most_boxes:
            return False
        if self.recipe.protocol.variant == "ppg":
            return all((scene, thing) in self._groups for thing in request.things)
        return all(self._boxes[scene][thing].any() for thing in request.things)

    def _about(self, scene: int, request: Request, rng: np.random.Generator) -> Turn:
        if request.task == QUESTIONS:
            return self._turn(request.text, request.answer)
        things = sorted(request.things, key=lambda thing: tuple(self._boxes[scene][thing]))
        count = str(rng.choice(COUNTS_OF[min(len(things), 2)]))
        if self.recipe.protocol.variant == "ppg":
            objects = [self._object(scene, thing, rng) for thing in things]
            return self._turn(group_question(request.text, count), group_answer(objects))
        boxes = np.array([self._boxes[scene][thing] for thing in things]).reshape(-1, 4)
        made = self._turn(box_question(request.text, count), box_answer(boxes))
        if things:
            asked = rng.integers(len(things))
            mask_hw = thing_mask(self._cache, scene, things[asked])
            self._ask_about_points(made, mask_hw, boxes[asked], rng)
        return made

    def _turn(self, question: str, answer: str) -> Turn:
        made = Turn()
        made.add(self._tokens, turn(question, answer, is_first=True))
        return made

    def _ask_about_points(
        self, made: Turn, mask_hw: np.ndarray, box_xyxy: np.ndarray, rng: np.random.Generator
    ) -> None:
        """Add the second turn to one that ends in a box."""
        margin = self.recipe.margin
        places = self._places(rng) * (1 + 2 * margin) - margin
        points = np.rint(box_xyxy[:2] + places * (box_xyxy[2:] - box_xyxy[:2]))
        points = np.clip(points, 0, 999).astype(np.int64)
        labels = is_inside(mask_hw, to_pixels(points, mask_hw.shape))
        if rng.random() < self.recipe.listed:
            question, answer = points_question(box_xyxy, points), points_answer(labels)
            made.add(self._tokens, turn(question, answer, is_first=False))
            return
        user, stem, _ = turn(points_question(box_xyxy, points[:0]), is_first=False)
        made.add(self._tokens, (user, stem))
        for index in range(len(labels)):
            question = points_question(box_xyxy, points[index : index + 1])
            point = replace(stem, text=question.removeprefix(stem.text))
            answered = turn(question, points_answer(labels[index : index + 1]), is_first=False)[2:]
            made.add(self._tokens, (point, *answered), branch=TRUNK + 1 + index)

    def _object(self, scene: int, thing: Thing, rng: np.random.Generator) -> ObjectPrompt:
        points_xy = rng.choice(self._groups[scene, thing])
        group = PointGroup(points_xy=points_xy, labels=np.array(GROUP_LABELS))
        return ObjectPrompt(box_xyxy=self._boxes[scene][thing], groups=(group,))
