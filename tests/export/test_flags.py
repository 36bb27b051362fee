import argparse

import pytest

from saymask.calibration.quantize import FORMS, OBSERVER
from saymask.calibration.ranges import MEMORY_MIB
from saymask.export.flags import GPU_ONLY, add_precision
from saymask.export.recipe import PRECISIONS, ExportRecipe


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_precision(parser)
    return parser


def test_what_is_not_said_is_the_recipes_default(parser):
    args = parser.parse_args([])
    fields = ExportRecipe.__dataclass_fields__
    names = ("precision", "calib", "calib_images", "calib_phrases", "quantizer", "plan", "work")
    for name in (*names, "modelopt_python"):
        assert getattr(args, name) == fields[name].default, name
    assert args.drop_slow is fields["drops_slow"].default
    assert args.calib_mem_mib == MEMORY_MIB
    assert args.calib_observer == str(OBSERVER)


def test_there_is_a_flag_for_each_precision_and_one_holds(parser, capsys):
    for precision in set(PRECISIONS) - {"fp32"}:
        assert parser.parse_args([f"--{precision}"]).precision == precision
    with pytest.raises(SystemExit):
        parser.parse_args(["--int8", "--fp8"])
    assert "not allowed with" in capsys.readouterr().err


def test_every_target_can_be_named(parser):
    for target in {target for target, _ in FORMS}:
        assert parser.parse_args(["--int8", "--target", target]).target == target


def test_what_is_for_tensorrt_alone_has_no_form_on_a_cpu():
    assert {precision for target, precision in FORMS if target == "cpu"}.isdisjoint(GPU_ONLY)
    assert set(GPU_ONLY) <= {precision for target, precision in FORMS if target == "rtx"}
