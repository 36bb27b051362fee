from __future__ import annotations

from saymask.train.sayings import GROUPS, QUESTIONS, open_sayings


def test_groups_point_and_questions_have_answers(cache, sayings):
    assert {one.task for one in sayings} == {GROUPS, QUESTIONS}
    assert {one.scene for one in sayings} <= set(range(len(cache)))
    for one in sayings:
        assert bool(one.answer) == (one.task == QUESTIONS)
        assert all(cache.things[one.scene, value, 0] for value in one.objects)
    assert any(one.task == GROUPS and not one.objects for one in sayings), "nothing is meant"
    assert any(len(one.objects) > 1 for one in sayings)


def test_a_written_file_is_taken_as_it_is(cache_recipe, tmp_path):
    path = tmp_path / "new" / "sayings.jsonl"
    said = open_sayings(path, cache_recipe, scenes=2, per_task=2)
    assert {one.scene for one in said} == {0, 1}
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert open_sayings(path, cache_recipe, scenes=2, per_task=2) == said[:1]
