"""Only a llama.cpp whose structs are known is called."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path

import pytest

from saymask.runtime.backends import llama_binding
from saymask.runtime.backends.llama_binding import LIBRARIES, Batch, Llama, ModelParams
from saymask.runtime.errors import EngineError, MissingExtraError


@pytest.fixture
def installed() -> llama_binding.Library:
    for library in LIBRARIES:
        if util.find_spec(library.module):
            return library
    pytest.skip("run: pip install 'saymask[llm]'")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `load` look again."""
    monkeypatch.setattr(llama_binding, "load", llama_binding.load.__wrapped__)


def _path(library: llama_binding.Library) -> Path:
    spec = util.find_spec(library.module)
    return Path(spec.submodule_search_locations[0]) / library.file


def test_layouts():
    """Sizes and places that gcc gives for llama.h of these versions, on 64 bits."""
    assert (ctypes.sizeof(ModelParams), ctypes.sizeof(Batch)) == (80, 56)
    assert ModelParams.use_extra_bufts.offset == 74


def test_the_installed_one(installed):
    llama = llama_binding.load()
    assert llama is llama_binding.load()
    assert llama.name == f"{installed.distribution} {installed.version}"
    params = llama.call.llama_context_default_params()
    sizes = {False: 160, True: 168}
    assert ctypes.sizeof(params) == sizes[installed.has_further_field]


def test_structs_of_another_version(installed):
    other = replace(installed, has_further_field=not installed.has_further_field)
    with pytest.raises(EngineError, match="structs of .* must be those of its release; its defau"):
        Llama(_path(installed), other)


def test_a_file_that_is_no_library(tmp_path, installed):
    (tmp_path / "libllama.so").write_bytes(b"no library")
    with pytest.raises(EngineError, match=r"must load; it does not: .*saymask\[llm\]"):
        Llama(tmp_path / "libllama.so", installed)


@pytest.mark.usefixtures("unloaded")
def test_another_version(installed, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.3.35")
    with pytest.raises(EngineError, match=f"must be of version {installed.version}, as .* 0.3.35"):
        llama_binding.load()


@pytest.mark.usefixtures("unloaded")
def test_nothing_installed(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"need llama.cpp, .*; run: .*saymask\[llm\]"):
        llama_binding.load()


@pytest.mark.usefixtures("unloaded")
def test_a_folder_without_a_distribution_does_not_count(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(MissingExtraError, match="not installed"):
        llama_binding.load()
