"""As little as possible is lifted, and always enough."""

from __future__ import annotations

import math

import pytest

from saymask.calibration.gate import Loss
from saymask.calibration.journal import Journal
from saymask.calibration.lifting import lift
from saymask.calibration.plan import NodePlan
from saymask.calibration.sensitivity import rank
from saymask.runtime.errors import GateError


@pytest.fixture
def ranking(wounded):
    subject, judge = wounded
    return rank([subject], judge, Journal(None))


def test_the_wounded_block_alone_is_lifted(wounded, ranking):
    subject, judge = wounded
    found = lift([subject], lambda: ranking, judge, Journal(None), budget=5)
    assert found.lifted == (subject.groups[1],)
    assert [len(each.lifted) for each in found.attempts] == [0, 1]
    assert found.attempts[0].loss.lost > 5 >= found.loss.lost
    plan = found.plans["net"]
    cost = f"{ranking[0].apart:.2f}"
    reason = f"lifted: alone it moves the masks {cost} points of IoU from FP32's"
    assert plan["second_in"] == NodePlan(precision="fp32", reason=reason)
    assert plan["second_out"].reason == reason
    assert plan["first_in"] == subject.plan["first_in"]
    assert found.loss == judge({"net": subject.lower(plan)})


def test_lifted_nodes_take_the_precision_of_the_target(wounded, ranking):
    subject, judge = wounded
    found = lift([subject], lambda: ranking, judge, Journal(None), budget=5, precision="fp16")
    assert found.plans["net"]["second_in"].precision == "fp16"


def test_nothing_is_ranked_where_the_budget_holds(wounded):
    subject, judge = wounded
    found = lift([subject], pytest.fail, judge, Journal(None), budget=100)
    assert not found.lifted
    assert found.plans["net"] == subject.plan
    assert len(found.attempts) == 1


def test_what_is_not_needed_is_returned(wounded, ranking):
    subject, judge = wounded
    found = lift([subject], lambda: ranking[::-1], judge, Journal(None), budget=5)
    assert found.lifted == (subject.groups[1],)
    assert found.loss.lost <= 5
    tried = [len(each.lifted) for each in found.attempts]
    assert tried == [0, 1, 2, 3, 2, 1]


def test_a_budget_that_nothing_meets(wounded, ranking):
    subject, judge = wounded
    with pytest.raises(GateError) as caught:
        lift([subject], lambda: ranking, judge, Journal(None), budget=-5)
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert said.startswith("the masks must lose at most -5 gIoU points against FP32; ")
    assert "0.00 with 3 of 3 groups of nodes lifted to fp32" in said
    assert "the most sensitive are net second_in to second_out (alone it moves the masks" in said


def test_a_budget_that_is_no_number(wounded, ranking):
    subject, judge = wounded
    with pytest.raises(GateError, match=r"must be a number of gIoU points; got nan; .* lose \d"):
        lift([subject], lambda: ranking, judge, Journal(None), budget=math.nan)


def test_masks_that_cannot_be_scored_never_hold(wounded, ranking):
    subject, _ = wounded
    with pytest.raises(GateError, match="nan with 3 of 3"):
        lift(
            [subject],
            lambda: ranking,
            lambda models: Loss(lost=math.nan, apart=math.nan),
            Journal(None),
            budget=5,
        )


def test_an_interrupted_lift_goes_on_where_it_ended(wounded, ranking, tmp_path):
    subject, judge = wounded
    path = tmp_path / "journal.jsonl"
    calls = []

    def kill_second(models) -> Loss:
        calls.append(models)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(models)

    with pytest.raises(KeyboardInterrupt):
        lift([subject], lambda: ranking, kill_second, Journal(path), budget=5)
    found = lift([subject], lambda: ranking, kill_second, Journal(path), budget=5)
    assert len(calls) == 3
    assert found == lift([subject], lambda: ranking, pytest.fail, Journal(path), budget=5)
    assert found == lift([subject], lambda: ranking, judge, Journal(None), budget=5)


def test_few_attempts_among_many_groups(wound):
    outliers = {f"block{number:02}": 10.0 ** max(0, 4 - number) for number in range(12)}
    subject, judge = wound(**outliers)
    ranking = rank([subject], judge, Journal(None))
    whole = judge({"net": subject.lower(subject.plan)}).lost
    found = lift([subject], lambda: ranking, judge, Journal(None), budget=whole / 4, most_returns=3)
    assert 0 < len(found.lifted) < 6
    assert found.loss.lost <= whole / 4
    assert found.attempts[-1].lifted
    assert len(found.attempts) <= 9
