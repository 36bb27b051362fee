import argparse

import pytest

from saymask.calibration.quantize import FORMS, OBSERVER, USUAL_TRANSFORMS
from saymask.calibration.ranges import MEMORY_MIB
from saymask.export.flags import GPU_ONLY, add_precision, language_of, transforms_of
from saymask.export.recipe import PRECISIONS, ExportRecipe
from saymask.runtime.errors import UnknownNameError, UsageError


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
    for words in (["--int8", "--fp8"], ["--fp16", "--int8"]):
        with pytest.raises(SystemExit) as raised:
            parser.parse_args(words)
        assert raised.value.code == 2
        assert "not allowed with" in capsys.readouterr().err


def test_transforms_are_named_one_by_one(parser):
    assert transforms_of(parser.parse_args([])) == USUAL_TRANSFORMS
    for words, found in (("none", ()), ("signs", ("signs",)), ("smooth,bias", ("smooth", "bias"))):
        assert transforms_of(parser.parse_args(["--transforms", words])) == found
    for words in ("smoth", "smooth,none", ""):
        with pytest.raises(UnknownNameError, match="a transform must be one of bias, migrate, no"):
            transforms_of(parser.parse_args(["--transforms", words]))


def test_every_target_can_be_named(parser):
    for target in {target for target, _ in FORMS}:
        assert parser.parse_args(["--int8", "--target", target]).target == target


def test_what_is_for_tensorrt_alone_has_no_form_on_a_cpu():
    assert {precision for target, precision in FORMS if target == "cpu"}.isdisjoint(GPU_ONLY)
    forms = {precision for target, precision in FORMS if target == "rtx"}
    assert set(GPU_ONLY) == forms - {"int8"} | {"fp16"}  # Which is no form of small numbers.


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], (None, None)),
        (["--llm", "q4_0", "--int8"], ("Q4_0", None)),
        (["--llm", "tensorrt-llm", "--fp8"], (None, "fp8")),
        (["--llm", "tensorrt-llm", "--int8"], (None, "int8-sq")),
        (["--llm", "tensorrt-llm", "--int8-sq"], (None, "int8-sq")),
        (["--llm", "tensorrt-llm", "--fp8", "--int4-awq"], (None, "int4-awq")),
    ],
)
def test_a_language_model_is_a_file_or_a_folder(parser, words, found):
    assert language_of(parser.parse_args(words)) == found


def test_a_folder_needs_its_precision_and_a_precision_its_folder(parser):
    with pytest.raises(UsageError, match="must go with --int4-awq, --int8-sq or --fp8; got none"):
        language_of(parser.parse_args(["--llm", "tensorrt-llm"]))
    with pytest.raises(UsageError, match="--int8-sq must go with --llm tensorrt-llm; got --llm F1"):
        language_of(parser.parse_args(["--llm", "f16", "--int8-sq"]))
