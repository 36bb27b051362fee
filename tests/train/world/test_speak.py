from __future__ import annotations

from time import process_time

import pytest

from saymask.runtime.errors import UnknownNameError
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.expression import TASKS
from saymask.train.world.speak import express
from saymask.train.world.truth import Target, mask_of

SPOKEN = tuple(task for task in TASKS if task != "dialogue")


def test_every_task_is_spoken_and_every_target_shows(drawings) -> None:
    for drawing in drawings["test"][:60]:
        said = express(drawing, seed=1, tasks=SPOKEN)
        assert {each.task for each in said} <= set(SPOKEN)
        for each in said:
            assert all(mask_of(drawing, (target,)).any() for target in each.targets)
            assert (each.task == "single") <= (len(each.targets) == 1)
            assert (each.task == "part") <= all(target.part for target in each.targets)
            assert (each.task in ("implicit", "vqa")) == bool(each.answer)


def test_texts_of_a_task_differ_and_are_counted(drawings) -> None:
    for drawing in drawings["train"][:60]:
        texts = [each.text for each in express(drawing, seed=0, tasks=("single",), per_task=6)]
        assert len(texts) == len(set(texts)) <= 6


def test_the_same_seed_says_the_same(drawings) -> None:
    drawing = drawings["val"][3]
    first, again, other = (express(drawing, seed=seed, tasks=SPOKEN) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert express(drawing, seed=5, tasks=("part",)) == tuple(
        each for each in first if each.task == "part"
    )


def test_semantic_names_take_every_pixel_of_the_class(drawings) -> None:
    for drawing in drawings["val"]:
        for each in express(drawing, seed=0, tasks=("semantic",)):
            prefix, category, *part = each.text.split()
            assert prefix == "[semantic]"
            everything = tuple(
                Target(object_index=index, part=part[0] if part else None)
                for index, thing in enumerate(drawing.scene.objects)
                if thing.category == category
            )
            whole, said = mask_of(drawing, everything), mask_of(drawing, each.targets)
            assert (whole == said).all(), each.text
            assert said.any()


def test_held_out_pairs_are_marked_in_the_test_split_alone(drawings) -> None:
    marked = {
        split: sum(each.is_held_out for d in drawings[split] for each in express(d, seed=0))
        for split in drawings
    }
    assert marked["train"] == marked["val"] == 0
    assert marked["test"] > 30


def test_an_empty_table_says_nothing(drawings) -> None:
    drawing = drawings["val"][0]
    bare = draw(type(drawing.scene)(**{name: getattr(drawing.scene, name) for name in
                ("seed", "split", "table", "camera")}, objects=()), (64, 64))  # fmt: skip
    assert express(bare, seed=0, tasks=SPOKEN) == ()


def test_an_unknown_task_lists_the_known_ones(drawings) -> None:
    with pytest.raises(UnknownNameError, match=r"single.*got 'dialogue'"):
        express(drawings["val"][0], seed=0, tasks=("dialogue",))


@pytest.mark.slow
def test_single_phrases_come_for_400_scenes_a_second() -> None:
    scenes = [draw(compose(seed, "train"), (128, 128)) for seed in range(400)]
    start = process_time()
    for drawing in scenes:
        express(drawing, seed=0)
    assert process_time() - start < 1.0
