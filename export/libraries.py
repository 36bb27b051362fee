"""Libraries that an export will need at its end, asked for at its beginning."""

from __future__ import annotations

from ..calibration import modelopt
from ..calibration.other_python import check_python
from ..runtime.backends import llama_binding
from ..runtime.errors import require
from .language import tensorrt_llm
from .recipe import ExportRecipe

__all__ = ["check_libraries"]


def check_libraries(recipe: ExportRecipe, *, has_language: bool) -> None:
    """Make sure that what a recipe asks for can be done with what is installed.

    Libraries in ModelOpt's environment are found and not imported, which takes no time; one that
    is there and does not load is told where it is used.

    Args:
        recipe: What will be done.
        has_language: Whether the system has a language model, which is written as GGUF and read by
            llama.cpp in any case.

    Raises:
        EngineError: llama.cpp is of another version, or does not load.
        MissingExtraError: A library is not installed.
    """
    if has_language:
        require("gguf", extra="export")
        llama_binding.load()
    if recipe.tensorrt_llm:
        check_python(
            recipe.modelopt_python,
            ("modelopt", "torch", "transformers"),
            library=tensorrt_llm.LIBRARY,
            commands=tensorrt_llm.COMMANDS,
        )
    if recipe.quantizer == "modelopt":
        check_python(
            recipe.modelopt_python,
            ("modelopt", "onnx", "onnxruntime"),
            library=modelopt.LIBRARY,
            commands=modelopt.COMMANDS,
        )
