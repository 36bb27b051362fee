"""Low-rank adapters of a LLaVA: put in by PEFT, saved as PEFT saves them.

Source: LoRA (arXiv 2106.09685), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from ..export.models.llava_llama import LlavaLlama
from ..runtime.errors import require
from ..runtime.replace import replacing

WEIGHTS_FILE = "adapter_model.safetensors"
LAYERS = r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
PROJECTOR = r"model\.mm_projector\.[02]"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """Sizes of an adapter."""

    rank: int
    """Rank of what is added to a weight."""
    alpha: int
    """What is added is scaled by this over the rank."""
    dropout: float
    """Share of an adapter's inputs that are dropped while it learns."""


def add_lora(network: LlavaLlama, recipe: LoraRecipe) -> None:
    """Freeze a LLaVA and put adapters into its language model's layers and its projector.

    They change nothing until they have learned.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft = require("peft", extra="train")
    peft.inject_adapter_in_model(_config(recipe, *map(_own_name, (LAYERS, PROJECTOR))), network)


def save_adapter(network: LlavaLlama, recipe: LoraRecipe, folder: Path) -> None:
    """Write the adapters of `network` as a folder that PEFT and `export.language.adapter` open.

    Args:
        network: What `add_lora` was given.
        recipe: What else it was given.
        folder: A folder that is there is replaced.
    """
    tensors = {
        f"base_model.model.{_released_name(name)}": value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if ".lora_" in name
    }
    with replacing(folder) as scratch:
        save_file(tensors, scratch / WEIGHTS_FILE)
        _config(recipe, LAYERS, PROJECTOR).save_pretrained(str(scratch))


def adapters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that `add_lora` put in."""
    return [each for name, each in network.named_parameters() if ".lora_" in name]


def _config(recipe: LoraRecipe, *targets: str) -> Any:
    return require("peft", extra="train").LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="|".join(targets),
        task_type="CAUSAL_LM",
    )


def _own_name(pattern: str) -> str:
    part = "vision" if pattern == PROJECTOR else "language.model"
    return pattern.replace("model", part, 1)


def _released_name(name: str) -> str:
    """Turn a name of `LlavaLlama` into that of a checkpoint."""
    name = name.replace(".default.", ".")
    return name.removeprefix("language.").replace("vision.", "model.", 1)
