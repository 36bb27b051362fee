"""What an export needs at its end is asked for before any work."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from saymask.calibration import modelopt
from saymask.export.language import tensorrt_llm
from saymask.export.libraries import check_libraries
from saymask.export.pipeline import export
from saymask.export.recipe import ExportRecipe
from saymask.runtime.backends import llama_binding
from saymask.runtime.errors import MissingExtraError

RECIPE = ExportRecipe(system="sam4mllm", out=Path("out"))
FOLDER = replace(RECIPE, tensorrt_llm="fp8", target="rtx", modelopt_python=Path(sys.executable))
GRAPHS = replace(
    RECIPE, quantizer="modelopt", precision="int8", target="rtx", modelopt_python=Path("no-such")
)


def test_nothing_is_asked_for_that_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(llama_binding, "load", pytest.fail)
    check_libraries(replace(RECIPE, system="evf-sam"), has_language=False)


def test_a_language_model_needs_gguf_and_llama_cpp(monkeypatch):
    asked = []
    monkeypatch.setattr(llama_binding, "load", lambda: asked.append("llama.cpp"))
    check_libraries(RECIPE, has_language=True)
    assert asked == ["llama.cpp"]
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"library 'gguf', .* pip install 'saymask.export"):
        check_libraries(RECIPE, has_language=True)


@pytest.mark.parametrize(
    ("recipe", "commands", "said"),
    [
        (
            FOLDER,
            tensorrt_llm.COMMANDS,
            "ModelOpt with transformers must .*No module named 'modelo",
        ),
        (GRAPHS, modelopt.COMMANDS, "ModelOpt must be installed for no-such, .*No such file"),
    ],
)
def test_modelopts_environment_is_looked_at(recipe, commands, said):
    with pytest.raises(MissingExtraError, match=said) as caught:
        check_libraries(recipe, has_language=False)
    assert all(line in str(caught.value) for line in commands)


@pytest.mark.parametrize("recipe", [FOLDER, GRAPHS])
def test_an_export_asks_before_any_work(recipe, chat_checkpoint, tmp_path):
    recipe = replace(recipe, checkpoint=str(chat_checkpoint), out=tmp_path / "out")
    with pytest.raises(MissingExtraError, match="ModelOpt"):
        export(recipe, pytest.fail)
    assert not recipe.out.exists()
