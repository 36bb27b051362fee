"""A release has the switches of the code it pairs with, and a caller may turn each of them."""

from __future__ import annotations

import pytest

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.systems.evf_sam import views
from saymask.export.systems.evf_sam_releases import (
    MASK_CHOICES,
    OWN,
    RELEASES,
    SAM_VIEWS,
    Switches,
    switches_from,
)
from saymask.runtime.errors import UnknownNameError
from saymask.runtime.geometry import FITS


@pytest.mark.parametrize(
    ("name", "preprocess", "mask_choice"),
    [
        ("evf-sam", "pad", "single"),
        ("YxZhang/evf-sam-multitask", "pad", "single"),
        ("YxZhang/evf-sam2@0123abc", "fill", "stable"),
        ("evf-sam2-multitask", "stretch", "best"),
    ],
)
def test_releases_by_name(name, preprocess, mask_choice):
    switches = switches_from(name, "sam2-l-beit3-large", {})
    assert (switches.preprocess, switches.mask_choice) == (preprocess, mask_choice)
    assert switches.beit_view == "sharp"


@pytest.mark.parametrize(
    ("variant", "preprocess", "mask_choice"),
    [
        ("sam-h-beit3-base", "pad", "single"),
        ("sam2-t-beit3-large", "stretch", "best"),
        ("efficientsam-s-beit3-large", "stretch", "single"),
        ("efficientvit-xl1-beit3-large", "pad", "single"),
    ],
)
def test_other_names_take_the_newest_code(variant, preprocess, mask_choice):
    switches = switches_from("my-finetune", variant, {})
    assert (switches.preprocess, switches.mask_choice) == (preprocess, mask_choice)


def test_the_miniature_has_its_own():
    assert switches_from("evf-sam-mini", "mini", {}) == OWN


def test_a_caller_turns_each_switch():
    turns = {"preprocess": "stretch-antialiased", "beit_view": "smooth", "mask_choice": "best"}
    turned = switches_from("evf-sam2", "sam2-l-beit3-large", turns)
    assert turned == Switches(**turns)


def test_unknown_switches_list_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"fill, pad, pad-float, stretch, .*; got 'crop'"):
        switches_from("evf-sam", "sam-h-beit3-large", {"preprocess": "crop"})
    with pytest.raises(UnknownNameError, match="best, single, stable; got 'worst'"):
        switches_from("evf-sam", "sam-h-beit3-large", {"mask_choice": "worst"})
    with pytest.raises(UnknownNameError, match="switch of evf-sam .*; got 'mask'"):
        switches_from("evf-sam", "sam-h-beit3-large", {"mask": "best"})


@pytest.mark.parametrize("preprocess", SAM_VIEWS)
def test_every_preprocessing_is_a_view(preprocess):
    switches = switches_from("evf-sam", "sam-h-beit3-large", {"preprocess": preprocess})
    sam, _ = views(EVF_SAM_SPECS["mini"], switches)
    assert sam.fit in FITS


def test_every_release_takes_a_known_mask():
    assert {each.mask_choice for each in RELEASES.values()} == set(MASK_CHOICES)
