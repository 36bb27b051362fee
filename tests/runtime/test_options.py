import argparse

import pytest

from saymask.runtime.options import add_bundle, add_engine, add_json, add_stream, amount, positive


def test_flags_are_read_and_have_defaults():
    parser = argparse.ArgumentParser()
    for add in (add_bundle, add_engine, add_json):
        add(parser)
    args = vars(parser.parse_args(["tiny"]))
    assert args == {"bundle": "tiny", "device": "auto", "threads": None, "json": False}
    words = ["tiny", "--device", "cuda:1", "--threads", "3", "--json"]
    assert list(vars(parser.parse_args(words)).values()) == ["tiny", "cuda:1", 3, True]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "one", "²"])
def test_positive_takes_whole_numbers_alone(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1"):
        positive(text)


def test_a_streams_flags_have_defaults():
    parser = argparse.ArgumentParser()
    add_stream(parser)
    assert list(vars(parser.parse_args([])).values()) == [1, None, None]
    words = ["--every", "5", "--latency-budget-ms", "80", "--stall-seconds", "2.5"]
    assert list(vars(parser.parse_args(words)).values()) == [5, 80.0, 2.5]


@pytest.mark.parametrize("text", ["0", "-1", "", "one", "nan", "inf"])
def test_an_amount_is_a_number_above_zero(text):
    with pytest.raises(argparse.ArgumentTypeError, match="number above 0"):
        amount(text)
