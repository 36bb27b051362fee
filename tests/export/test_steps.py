import sys

import numpy as np
import pytest

from saymask.export.steps import Steps

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_each_step_is_said_and_measured_by_itself():
    said = []
    steps = Steps(said.append)
    with steps.step("large", " of 300 MiB"):
        np.ones(300 * MIB, np.uint8)
    with steps.step("small"):
        pass
    assert said == ["large of 300 MiB", "small"]
    header, large, small = (line.split() for line in steps.lines())
    assert header == ["step", "seconds", "peak", "MiB"]
    assert (large[0], small[0]) == ("large", "small")
    assert int(large[2]) - int(small[2]) > 200


def test_a_step_that_fails_is_not_counted():
    steps = Steps(lambda _: None)
    with pytest.raises(ZeroDivisionError), steps.step("divide"):
        raise ZeroDivisionError
    assert len(steps.lines()) == 1
