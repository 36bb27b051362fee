import numpy as np

from saymask.train.requests import requests_by_scene, thing_mask

TASKS = ("single", "part", "multi", "vqa")


def test_every_scene_is_asked_what_is_said_of_it(cache, sayings):
    gathered = requests_by_scene(cache, sayings, tasks=TASKS, scenes=100)
    assert len(gathered) == len(cache)
    everything = [(scene, each) for scene, of_scene in enumerate(gathered) for each in of_scene]
    phrases = cache.phrases
    rows = [row for row, task in enumerate(phrases.task) if task in TASKS]
    wanted = {(int(phrases.scene[row]), phrases.texts[row]) for row in rows}
    wanted |= {(one.scene, one.text) for one in sayings}
    assert {(scene, each.text) for scene, each in everything} == wanted
    assert len(everything) == len(rows) + len(sayings)
    assert {each.task for _, each in everything} == set(TASKS)
    assert all(bool(each.answer) == (each.task == "vqa") for _, each in everything)


def test_the_things_cover_what_the_phrase_means(cache):
    gathered = requests_by_scene(cache, [], tasks=("single", "part"), scenes=24)
    phrases = cache.phrases
    for task in ("single", "part"):
        for row in phrases.rows[task]:
            scene = int(phrases.scene[row])
            (request,) = [
                each for each in gathered[scene]
                if (each.task, each.text) == (task, phrases.texts[row])
            ]  # fmt: skip
            (thing,) = request.things
            truth_hw = cache.phrase_masks(np.array([row]))[0]
            np.testing.assert_array_equal(thing_mask(cache, scene, thing), truth_hw)
            assert bool(thing[1]) == (task == "part")


def test_only_what_is_wanted_is_taken(cache, sayings):
    gathered = requests_by_scene(cache, sayings, tasks=("vqa",), scenes=3)
    assert len(gathered) == 3
    assert {each.task for of_scene in gathered for each in of_scene} == {"vqa"}
