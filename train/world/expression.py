"""A phrase with what it means: the text, the targets it points at and the answer it expects."""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import HELD_OUT_PAIRS
from .sight import View
from .truth import Target

TASKS = ("single", "multi", "semantic", "part", "reference", "implicit", "dialogue", "vqa")
SEG = "{seg}"
"""Where an answer marks a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One prompt about one drawn scene and its truth."""

    task: str
    """One of `TASKS`."""
    kind: str
    """Template family inside the task, for example "attribute", "relation", "absolute"."""
    text: str
    """What the user says. Reference tasks write each reference as `<mask-ref>`."""
    targets: tuple[Target, ...]
    """What the phrase points at, in the order of the answer; the mask is their union.

    Empty when nothing in the scene is meant.
    """
    references: tuple[Target, ...]
    """Masks that stand for the `<mask-ref>`s of `text`, or that a dialogue's turn refers to."""
    answer: str
    """Expected answer with "{seg}" where each target's mask stands; "" when the task has none."""
    is_held_out: bool
    """True when a target's color and category pair is drawn only in the test split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One round of a dialogue."""

    expression: Expression
    relation: str
    """"first", "hierarchical", "positional", "interactional", "other" or "attribute"."""
    refers_to: tuple[int, ...]
    """1-based rounds whose masks this turn refers to; empty in the first round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """Rounds about one scene, each with exactly one target (multi-round referring segmentation)."""

    turns: tuple[Turn, ...]


def expression_about(
    view: View,
    *,
    task: str,
    kind: str,
    text: str,
    targets: tuple[Target, ...],
    references: tuple[Target, ...] = (),
    answer: str = "",
) -> Expression:
    """Return an expression about a viewed scene; the arguments are the fields of `Expression`."""
    indices = {target.object_index for target in targets}
    pairs = {(one.thing.color, one.thing.category) for one in view.seen if one.index in indices}
    return Expression(
        task=task,
        kind=kind,
        text=text,
        targets=targets,
        references=references,
        answer=answer,
        is_held_out=not HELD_OUT_PAIRS.isdisjoint(pairs),
    )
