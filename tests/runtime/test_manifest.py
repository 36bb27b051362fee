"""A manifest survives the way to text and back, and nothing else passes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import BundleError
from saymask.runtime.manifest import manifest_from_text, text_from_manifest
from saymask.runtime.spec import LatencyRow, Manifest, QualityRow


@pytest.fixture
def manifest(tiny_bundle) -> Manifest:
    return replace(
        Bundle.read(tiny_bundle).manifest,
        quality=(
            QualityRow(
                task="single", metric="gIoU", data="world:val", phrase_count=9, fp32=0.8, this=0.79
            ),
        ),
        latency=(LatencyRow(stage="image", precision="fp32", median_ms=1.5, is_taken=True),),
        machine="a processor, with \u00fcml\u00e4uts",
    )


def _changed(manifest: Manifest, **changes: object) -> str:
    return json.dumps({**json.loads(text_from_manifest(manifest)), **changes})


def test_round_trip(manifest):
    assert manifest_from_text(text_from_manifest(manifest), origin="here") == manifest


def test_a_vocabulary_may_be_the_language_models_own(manifest):
    own = replace(manifest, tokenizer=None, settings=(("count", "0+"),))
    assert manifest_from_text(text_from_manifest(own), origin="here") == own


def test_whole_numbers_are_numbers(manifest):
    read = manifest_from_text(_changed(manifest, mask_threshold=0), origin="here")
    assert isinstance(read.mask_threshold, float)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema_version": 1}', "{}"])
def test_other_text(text):
    with pytest.raises(BundleError, match="here must (be JSON|have schema_version 3)"):
        manifest_from_text(text, origin="here")


def test_unknown_and_missing_fields_are_named(manifest):
    with pytest.raises(BundleError, match="unknown: surprise;"):
        manifest_from_text(_changed(manifest, surprise=1), origin="here")
    data = json.loads(text_from_manifest(manifest))
    del data["tokenizer"]["max_tokens"]
    with pytest.raises(BundleError, match="here: tokenizer must .* missing: max_tokens;"):
        manifest_from_text(json.dumps(data), origin="here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": 3}, "here: system must be str; got 3"),
        ({"mask_threshold": "0"}, "here: mask_threshold must be float; got '0'"),
        ({"mask_threshold": True}, "here: mask_threshold must be float; got True"),
        ({"stages": "image"}, "here: stages must be .*StageSpec.* got 'image'"),
        ({"stages": ["image"]}, r"here: stages\[0\] must have the fields name"),
        ({"templates": [["semantic"]]}, r"here: templates\[0\] must be .* got \['semantic'\]"),
        ({"templates": ["ab"]}, r"here: templates\[0\] must be tuple.* got 'ab'"),
        ({"tokenizer": "xlm"}, "here: tokenizer must have the fields"),
        ({"settings": [["a", 1]]}, r"here: settings\[0\]\[1\] must be str; got 1"),
    ],
)
def test_mistyped_fields_are_named(manifest, changes, message):
    with pytest.raises(BundleError, match=message):
        manifest_from_text(_changed(manifest, **changes), origin="here")
