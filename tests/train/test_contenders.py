from dataclasses import replace

import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import UnknownNameError, UsageError
from saymask.train.contenders import contender, settings_from_text


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    tiny = Bundle.read(tiny_bundle)
    settings = (("keep_yes", "0.9"), ("count", "1"))
    return replace(tiny, manifest=replace(tiny.manifest, settings=settings))


def test_settings_are_read():
    assert settings_from_text("keep_yes=0.8,count=0+") == {"keep_yes": "0.8", "count": "0+"}
    assert settings_from_text("") == {}


@pytest.mark.parametrize("text", ["keep_yes", "=0.8", "keep_yes=", "keep_yes=0.8,count"])
def test_settings_that_say_nothing_are_refused(text):
    with pytest.raises(UsageError, match="must be NAME=VALUE"):
        settings_from_text(text)


def test_only_what_is_set_changes(bundle):
    changed = contender(bundle, {"keep_yes": "0.6"})
    assert changed.name == "tiny keep_yes=0.6"
    assert changed.bundle.manifest.settings == (("keep_yes", "0.6"), ("count", "1"))
    assert replace(changed.bundle, manifest=bundle.manifest) == bundle
    assert contender(bundle, {}).name == "tiny"
    assert contender(bundle, {}).bundle == bundle


def test_an_unknown_setting_is_named(bundle):
    with pytest.raises(UnknownNameError, match="a setting of tiny must be one of count, keep_yes"):
        contender(bundle, {"keep": "0.6"})


def test_a_contender_segments(bundle):
    with contender(bundle, {}).open(device="cpu", threads=1) as segmenter:
        assert segmenter.device == "cpu"
        assert segmenter.bundle.manifest.settings == bundle.manifest.settings
