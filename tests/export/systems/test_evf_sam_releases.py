"""A release has the switches of the code it pairs with, and a caller may turn each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saymask.export.hub import release_names
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.systems.evf_sam import views
from saymask.export.systems.evf_sam_releases import (
    MASK_CHOICES,
    OWN,
    RELEASES,
    SAM_VIEWS,
    Switches,
    settle,
)
from saymask.runtime.errors import UnknownNameError
from saymask.runtime.geometry import FITS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAM2 = "sam2-l-beit3-large"


@pytest.mark.parametrize(
    ("name", "preprocess", "mask_choice"),
    [
        ("YxZhang/evf-sam2", "fill", "stable"),
        ("evf-sam2", "fill", "stable"),
        ("EVF-SAM2", "fill", "stable"),
        ("models--YxZhang--evf-sam2", "fill", "stable"),
        ("evf-sam2-multitask", "stretch", "best"),
    ],
)
def test_releases_of_sam2_are_told_by_name(name, preprocess, mask_choice):
    settled = settle([name], SAM2, {})
    switches = settled.switches
    assert (switches.preprocess, switches.mask_choice) == (preprocess, mask_choice)
    assert switches.beit_view == "sharp"
    assert not settled.doubtful
    assert settled.remark() == (
        f"switches: preprocess={preprocess}, beit_view=sharp, mask_choice={mask_choice}, as the "
        f"release {name.lower().split('/')[-1].split('--')[-1]} has them"
    )


@pytest.mark.parametrize("name", ["evf-sam", "evf-sam2", "evf-sam2-multitask", "my-finetune"])
def test_with_sam_the_networks_tell_whatever_the_name(name):
    settled = settle([name], "sam-h-beit3-large", {})
    assert settled.switches == RELEASES["evf-sam"] == RELEASES["evf-sam-multitask"]
    assert not settled.doubtful
    assert settled.remark().endswith(", as all of the authors' code has them with sam-h")


@pytest.mark.parametrize("name", ["my-finetune", COMMIT, "evf-sam", "evf-sam-multitask"])
def test_where_nothing_tells_the_likeliest_are_taken_and_said(name):
    settled = settle([name], SAM2, {})
    assert settled.switches == RELEASES["evf-sam2-multitask"]
    assert settled.doubtful == {"preprocess": ("fill",), "mask_choice": ("stable",)}
    assert settled.remark() == (
        "switches: preprocess=stretch, beit_view=sharp, mask_choice=best, as is likeliest with "
        f"sam2-l: neither the config nor the name {name} tells which of evf-sam2-multitask, "
        "evf-sam2 it is; preprocess and mask_choice may have to be another: compare the masks with "
        "--switch preprocess=fill, --switch mask_choice=stable"
    )


@pytest.mark.parametrize(
    ("variant", "likeliest", "doubtful"),
    [
        ("sam2-t-beit3-large", ("stretch", "best"), {"preprocess", "mask_choice"}),
        ("efficientsam-s-beit3-large", ("stretch", "single"), {"preprocess"}),
        ("efficientvit-xl1-beit3-large", ("pad", "single"), {"preprocess", "beit_view"}),
    ],
)
def test_encoders_of_no_release_take_the_newest_code(variant, likeliest, doubtful):
    settled = settle(["my-finetune"], variant, {})
    assert (settled.switches.preprocess, settled.switches.mask_choice) == likeliest
    assert set(settled.doubtful) == doubtful


def test_the_miniature_has_its_own():
    settled = settle(["evf-sam2"], "mini", {})
    assert settled.switches == OWN
    assert settled.remark().endswith("mask_choice=single, as saymask trains mini")


def test_the_hubs_cache_names_a_release_by_its_folder(tmp_path):
    snapshot = tmp_path / "models--YxZhang--evf-sam2" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    names = release_names(COMMIT, snapshot)
    assert names == (COMMIT, "models--YxZhang--evf-sam2")
    assert settle(names, SAM2, {}).switches == RELEASES["evf-sam2"]
    link = tmp_path / "mine"
    link.symlink_to(snapshot)
    assert settle(release_names("mine", link), SAM2, {}).switches == RELEASES["evf-sam2"]


def test_the_best_name_comes_first(tmp_path):
    names = release_names("YxZhang/evf-sam2@main", tmp_path / COMMIT, "./evf-sam2-multitask/")
    assert names == ("YxZhang/evf-sam2", COMMIT, "./evf-sam2-multitask")
    assert settle(names, SAM2, {}).switches == RELEASES["evf-sam2"]
    assert settle(names[1:], SAM2, {}).switches == RELEASES["evf-sam2-multitask"]
    assert release_names("a", Path("/a"), 7) == ("a",)


def test_a_caller_turns_each_switch():
    turns = {"preprocess": "stretch-antialiased", "beit_view": "smooth", "mask_choice": "best"}
    settled = settle(["evf-sam2"], SAM2, turns)
    assert settled.switches == Switches(**turns)
    assert settled.told_by == (
        "the release evf-sam2 has them, with preprocess and beit_view and mask_choice by --switch"
    )


def test_what_was_turned_is_in_no_doubt():
    settled = settle(["mine"], SAM2, {"preprocess": "fill"})
    assert settled.switches == replace(RELEASES["evf-sam2-multitask"], preprocess="fill")
    assert settled.doubtful == {"mask_choice": ("stable",)}
    assert not settle(["mine"], SAM2, {"preprocess": "fill", "mask_choice": "best"}).doubtful


def test_a_bundle_records_them_and_what_told():
    assert settle(["evf-sam2"], SAM2, {}).settings() == (
        ("preprocess", "fill"),
        ("beit_view", "sharp"),
        ("mask_choice", "stable"),
        ("told_by", "the release evf-sam2 has them"),
    )


def test_unknown_switches_list_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"fill, pad, pad-float, stretch, .*; got 'crop'"):
        settle(["evf-sam"], "sam-h-beit3-large", {"preprocess": "crop"})
    with pytest.raises(UnknownNameError, match="best, single, stable; got 'worst'"):
        settle(["evf-sam"], "sam-h-beit3-large", {"mask_choice": "worst"})
    with pytest.raises(UnknownNameError, match="switch of evf-sam .*; got 'mask'"):
        settle(["evf-sam"], "sam-h-beit3-large", {"mask": "best"})


@pytest.mark.parametrize("preprocess", SAM_VIEWS)
def test_every_preprocessing_is_a_view(preprocess):
    settled = settle(["evf-sam"], "sam-h-beit3-large", {"preprocess": preprocess})
    sam, _ = views(EVF_SAM_SPECS["mini"], settled.switches)
    assert sam.fit in FITS


def test_every_release_takes_a_known_mask():
    assert {each.mask_choice for each in RELEASES.values()} == set(MASK_CHOICES)
