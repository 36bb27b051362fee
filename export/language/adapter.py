"""A LoRA adapter as PEFT stores it: what it adds to which weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...runtime.errors import CheckpointError
from ..hub import bare_name, release_names
from ..weights import map_tensors

__all__ = ["Adapter", "Delta", "open_adapter"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""The first that is there counts."""

_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(default\.)?weight")
_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is added to one weight (Hu et al. 2021, section 4.1).

    PEFT's fan_in_fan_out says nothing here: it is for GPT-2's Conv1D, and PEFT itself sets it to
    False for the linear layers that these models consist of.
    """

    down: Tensor
    """(rank, inputs), PEFT's lora_A."""
    up: Tensor
    """(outputs, rank), PEFT's lora_B."""
    scale: float
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs of the weight."""
        return self.up.shape[0], self.down.shape[1]

    def added_to(self, weight: Tensor) -> Tensor:
        """Return its sum with an (outputs, inputs) weight, as float32."""
        return weight.float() + self.up.float() @ self.down.float() * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter for a model."""

    folder: Path
    """Where it lies."""
    base: str
    """What it was trained on, as PEFT noted it: a hub id or a path; empty where it noted none."""
    deltas: Mapping[str, Delta]
    """What is added, by the names of the model's weights, "model.layers.0.mlp.up_proj.weight"."""
    replacements: Mapping[str, Tensor]
    """What stands for a weight or is added to the model as a whole, by its name."""

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make sure that all of it is for a model of these weights.

        Raises:
            CheckpointError: It changes a weight that isn't there, or one of another shape.
        """
        changed = {name: delta.shape for name, delta in self.deltas.items()}
        changed |= {name: tuple(tensor.shape) for name, tensor in self.replacements.items()}
        misfits = [
            f"{name} {shape}, where the model has {shapes.get(name, 'none')}"
            for name, shape in changed.items()
            if shapes.get(name) != shape
        ]
        if misfits:
            raise CheckpointError(
                f"the adapter in {self.folder} must fit the model's weights; {len(misfits)} of "
                f"{len(changed)} do not: {'; '.join(misfits[:_NAMES_SHOWN])}; take the model that "
                f"it was trained on, which {CONFIG_FILE} names"
            )

    def doubt(self, folder: Path) -> str:
        """Say that a model goes by other names than the one that it was trained on, or nothing.

        Names prove nothing, as people rename folders; but a model of the same shapes and another
        name takes the adapter without complaint.

        Args:
            folder: The model's, whose config.json may name it too.
        """
        try:
            origin = json.loads((folder / "config.json").read_text("utf-8")).get("_name_or_path")
        except (OSError, ValueError, AttributeError):
            origin = None
        names = release_names(folder.name, folder, origin)
        if bare_name(self.base) in ("", *map(bare_name, names)):
            return ""
        return (
            f"the adapter in {self.folder} was trained on {self.base!r}, and is merged into "
            f"{' or '.join(map(repr, names))}; make sure that these are the same model"
        )

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with its change, as float32, or as it is where there is none."""
        if name in self.deltas:
            return self.deltas[name].added_to(weight)
        return self.replacements.get(name, weight)


def open_adapter(folder: Path) -> Adapter:
    """Open a folder that PEFT saved.

    Raises:
        CheckpointError: It is missing, damaged or no LoRA, or holds what can't be merged.
    """
    path = folder / CONFIG_FILE
    files = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    if not path.is_file() or not files:
        raise CheckpointError(
            f"an adapter is a folder with {CONFIG_FILE} and {' or '.join(WEIGHTS_FILES)}; {folder} "
            "is none; give the folder that PEFT saved"
        )
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = config["peft_type"], bool(config.get("use_dora", False))
        if kind != ("LORA", False):
            raise ValueError(f"it is {kind[0]}{' with DoRA' * kind[1]}")
        return _adapter(folder, config, map_tensors(files[:1]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} must describe a LoRA without DoRA, and each rank be that of its matrices: "
            f"{error!r}; merge it in PEFT and give the merged model"
        ) from error


def _adapter(
    folder: Path, config: Mapping[str, Any], stored: Sequence[tuple[str, Tensor]]
) -> Adapter:
    sides: dict[str, dict[str, Tensor]] = {}
    replacements: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in stored:
        name = key.removeprefix(_PREFIX)
        found = _KEY.fullmatch(name)
        if found:
            sides.setdefault(found["module"], {})[found["side"]] = tensor
        elif name == key or "lora_" in name:
            unknown.append(key)
        else:
            replacements[name.replace(".modules_to_save.default.", ".")] = tensor
    unknown += [f"{module} without its other half" for module in sides if len(sides[module]) < 2]
    if unknown:
        raise CheckpointError(
            f"the weights in {folder} must be pairs of lora_A and lora_B, or whole tensors, below "
            f"{_PREFIX}; {len(unknown)} are not: {'; '.join(unknown[:_NAMES_SHOWN])}; save the "
            "adapter again with PEFT"
        )
    deltas = {f"{name}.weight": _delta(config, name, pair) for name, pair in sides.items()}
    base = config.get("base_model_name_or_path")
    return Adapter(
        folder=folder,
        base=base if isinstance(base, str) else "",
        deltas=deltas,
        replacements=replacements,
    )


def _delta(config: Mapping[str, Any], module: str, pair: Mapping[str, Tensor]) -> Delta:
    rank = _of_module(config.get("rank_pattern"), module, config["r"])
    alpha = _of_module(config.get("alpha_pattern"), module, config["lora_alpha"])
    ranks = pair["A"].shape[0], pair["B"].shape[1]
    if ranks != (rank, rank):
        raise ValueError(f"{module} has ranks {ranks}, not {rank}")
    return Delta(
        down=pair["A"],
        up=pair["B"],
        scale=alpha / (math.sqrt(rank) if config.get("use_rslora") else rank),
    )


def _of_module(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that a module's name ends with."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return otherwise
