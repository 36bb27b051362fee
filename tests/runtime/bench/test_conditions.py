import onnxruntime

from saymask.runtime.bench.conditions import machine_conditions, machine_text
from saymask.runtime.machine import processor_name


def test_versions_and_the_machine_are_named():
    conditions = machine_conditions("cpu", 2)
    assert conditions["engines"]["onnxruntime"] == onnxruntime.__version__
    assert (conditions["device"], conditions["threads"]) == ("cpu", 2)
    text = machine_text(conditions)
    assert processor_name() in text
    assert f"onnxruntime {onnxruntime.__version__}" in text
