"""The block that suffers most is found, and no measurement is made twice."""

from __future__ import annotations

import pytest

from saymask.calibration.gate import Loss
from saymask.calibration.journal import Journal
from saymask.calibration.plan import NodePlan
from saymask.calibration.sensitivity import Group, Subject, judge_plans, lift_group, rank


class _Interrupted:
    """A judge that is killed after some masks."""

    def __init__(self, judge, after: int) -> None:
        self.left, self._judge = after, judge

    def __call__(self, models) -> Loss:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self._judge(models)


def test_the_wounded_block_is_found(wounded):
    subject, judge = wounded
    assert [group.nodes for group in subject.groups] == [
        ("first_in", "first_out"),
        ("second_in", "second_out"),
        ("third_in", "third_out"),
    ]
    ranking = rank([subject], judge, Journal(None))
    assert ranking[0].group == subject.groups[1]
    assert ranking[0].error > 5 * ranking[1].error
    assert ranking[0].apart > 5 * ranking[1].apart
    assert [each.apart for each in ranking] == [each.loss.apart for each in ranking]


def test_masks_are_asked_about_the_largest_errors_only(wounded):
    subject, judge = wounded
    asked = []

    def listen(models) -> Loss:
        asked.append(list(models))
        return judge(models)

    first, second, third = rank([subject], listen, Journal(None), confirm=1)
    assert asked == [["net"]]
    assert first.group == subject.groups[1]
    assert first.apart == first.loss.apart
    assert second.loss is third.loss is None
    assert second.apart == pytest.approx(first.apart / first.error * second.error)


def test_a_ranking_is_the_same_every_time(wounded):
    subject, judge = wounded
    assert rank([subject], judge, Journal(None)) == rank([subject], judge, Journal(None))


def test_an_interrupted_search_goes_on_where_it_ended(wounded, tmp_path):
    subject, judge = wounded
    path = tmp_path / "journal.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rank([subject], _Interrupted(judge, 2), Journal(path))
    assert len(path.read_text().splitlines()) == 3 + 2
    rest = _Interrupted(judge, 1)
    ranking = rank([subject], rest, Journal(path))
    assert rest.left == 0
    assert ranking == rank([subject], _Interrupted(judge, 0), Journal(path))
    assert ranking == rank([subject], judge, Journal(None))


def test_other_settings_and_other_samples_are_measured_anew(wounded, tmp_path):
    subject, judge = wounded
    path = tmp_path / "journal.jsonl"
    rank([subject], judge, Journal(path))
    with pytest.raises(KeyboardInterrupt):
        rank([subject], _Interrupted(judge, 0), Journal(path, data="other samples"))
    other = Subject(
        "net", subject.model, subject.plan, subject.lower, subject.runs, settings="percent 99"
    )
    with pytest.raises(KeyboardInterrupt):
        rank([other], _Interrupted(judge, 0), Journal(path))


def test_the_judge_is_not_given_stages_in_fp32(wounded):
    subject, _ = wounded
    plan = lift_group(subject.plan, subject.groups[0], "fp32", "no INT8")
    for group in subject.groups[1:]:
        plan = lift_group(plan, group, "fp32", "no INT8")
    given = []

    def listen(models) -> Loss:
        given.append(dict(models))
        return Loss(lost=0, apart=0)

    judge_plans("nothing", [subject], {"net": plan}, listen, Journal(None))
    assert given == [{}]


def test_a_group_is_lifted_with_its_reason():
    plan = {name: NodePlan(precision="int8-static", reason="") for name in "abc"}
    group = Group(stage="net", nodes=("a", "c"))
    assert str(group) == "net a to c"
    assert str(Group(stage="net", nodes=("b",))) == "net b"
    lifted = lift_group(plan, group, "fp16", "it hurt")
    assert lifted["a"] == lifted["c"] == NodePlan(precision="fp16", reason="it hurt")
    assert lifted["b"] == plan["b"]
