import sys
from types import ModuleType

import onnxruntime
import pytest

from saymask.runtime.bench.conditions import machine_conditions, machine_text
from saymask.runtime.machine import processor_name


@pytest.mark.parametrize("name", ["openvino", "nncf", "torch"])
def test_what_was_imported_is_named(monkeypatch, name):
    module = ModuleType(name)
    module.__version__ = "1.2.3"
    monkeypatch.setitem(sys.modules, name, module)
    assert machine_conditions("cpu", 1)["engines"][name] == "1.2.3"


def test_versions_and_the_machine_are_named():
    conditions = machine_conditions("cpu", 2)
    assert conditions["engines"]["onnxruntime"] == onnxruntime.__version__
    assert (conditions["device"], conditions["threads"]) == ("cpu", 2)
    text = machine_text(conditions)
    assert processor_name() in text
    assert f"onnxruntime {onnxruntime.__version__}" in text
