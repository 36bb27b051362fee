"""The training loop: steps that can stop anywhere and go on as if they had not."""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from ..runtime.errors import CheckpointError, SaymaskError, UnknownNameError, UsageError
from .lion import Lion

PRECISIONS = ("bf16", "no")
"""As accelerate names them."""
OPTIMIZERS = ("adamw", "lion", "muon")
"""What may step the weights."""
SCHEDULES = ("cosine", "linear")
"""How the rate falls after the warm-up."""
MUON_RATE = 2.0
"""Muon's learning rate as a multiple of AdamW's, once their updates have the same size."""
STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"

Batch = Mapping[str, Tensor]
DrawBatch = Callable[[np.random.Generator], Batch]
Parts = Mapping[str, Any]
"""What a state holds beside its step: things with `state_dict` and `load_state_dict`, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRecipe:
    """How long and how fast to learn."""

    steps: int
    """Optimizer steps in all."""
    learning_rate: float
    """Peak rate; it falls to zero after the warm-up."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly from zero."""
    schedule: str = "linear"
    """One of SCHEDULES."""
    batches: int = 1
    """Batches of a step, whose gradients are averaged."""
    optimizer: str = "adamw"
    """One of OPTIMIZERS. "muon" takes the matrices inside stacked layers and leaves the rest to
    AdamW; BEiT-3's miniature, learning from nothing, needed half the phrases with it."""
    weight_decay: float = 0.01
    """Decoupled decay, on matrices only."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    seed: int = 0
    """Seeds the batches: step k draws from (seed, k, process), whatever happened before it."""
    save_every: int = 200
    """Steps between two saved states, a multiple of `log_every`."""
    log_every: int = 20
    """Steps that one line of the log averages."""
    mixed_precision: str = "bf16"
    """One of `PRECISIONS`."""
    is_on_cpu: bool = False
    """True to leave a GPU alone."""

    def __post_init__(self) -> None:
        """Check what would spoil a resumed run.

        Raises:
            UnknownNameError: `optimizer` or `schedule` is something else, or `mixed_precision` is,
                such as "fp16", whose loss scale no state keeps.
            UsageError: `save_every` is not a multiple of `log_every`.
        """
        known = {"mixed_precision": PRECISIONS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for field, names in known.items():
            if getattr(self, field) not in names:
                raise UnknownNameError(field, getattr(self, field), names)
        if self.save_every % self.log_every:
            raise UsageError(
                "save_every must be a multiple of log_every, or a resumed run would log other "
                f"means; got {self.save_every} and {self.log_every}"
            )

    def scaled(self, scale: float) -> LoopRecipe:
        """Return the share `scale` of it, at least one step."""
        return replace(
            self,
            steps=max(1, round(self.steps * scale)),
            warmup_steps=round(self.warmup_steps * scale),
        )


def fit(phase: nn.Module, draw_batch: DrawBatch, recipe: LoopRecipe, folder: Path) -> None:
    """Train `phase`, whose forward maps a batch to a loss and figures to show.

    A state is saved every `recipe.save_every` steps and at the end; a second call with the same
    folder goes on from it, and a finished one does nothing. Several processes (accelerate launch)
    draw different batches and average their gradients; the first of them logs and saves.

    Args:
        phase: Module with `forward(**batch) -> (loss, figures: dict[str, Tensor])`; the figure
            "images" is counted, the others are averaged.
        draw_batch: Draws a batch from a generator.
        recipe: How long and how fast.
        folder: Where state and log go; its name says on stderr what is trained.

    Raises:
        CheckpointError: The state in `folder` is damaged or of another network.
        SaymaskError: A loss or its gradient is not finite; the saved state is from before that.
    """
    # A phase leaves out what only other phases use, such as SAM's encoder of mask prompts.
    leaves_out = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision, cpu=recipe.is_on_cpu, kwargs_handlers=[leaves_out]
    )
    torch.manual_seed(recipe.seed)
    optimizers = _optimizers(phase, recipe)
    schedules = {
        f"{name}_schedule": torch.optim.lr_scheduler.LambdaLR(each, lambda s: rate_at(s, recipe))
        for name, each in optimizers.items()
    }
    parts = {"phase": phase} | optimizers | schedules
    folder.mkdir(parents=True, exist_ok=True)
    first = _resume(folder / STATE_FILE, parts)
    model, *stepped = accelerator.prepare(phase, *optimizers.values())
    model.train()
    log = _Log(folder / LOG_FILE, recipe)
    is_main = accelerator.is_main_process
    if is_main:
        log.cut(first)
    bar = tqdm(
        range(first, recipe.steps),
        desc=folder.name,
        initial=first,
        total=recipe.steps,
        unit="step",
        disable=None if is_main else True,
    )
    for step in bar:
        rng = np.random.default_rng((recipe.seed, step, accelerator.process_index))
        where = f"step {step} of {folder.name}"
        batches = (draw_batch(rng) for _ in range(recipe.batches))
        figures = _learn(accelerator, model, stepped, batches, recipe, where)
        for schedule in schedules.values():
            schedule.step()
        if not is_main:
            continue
        said = log.add(step, figures)
        bar.set_postfix_str(said)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            _save(folder / STATE_FILE, step + 1, parts)
            bar.write(f"saymask: {folder.name} {step + 1}/{recipe.steps}: {said}", sys.stderr)


def rate_at(step: int, recipe: LoopRecipe) -> float:
    """Return the learning rate of a step as a share of the peak: linear up, then down."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    left = max(0.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup_steps))
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def _optimizers(phase: nn.Module, recipe: LoopRecipe) -> dict[str, torch.optim.Optimizer]:
    """Return who steps what, by name: Lion, or AdamW, and Muon for what it may take."""
    trained = {name: each for name, each in phase.named_parameters() if each.requires_grad}
    stacked = {name for name, each in trained.items() if each.ndim == 2 and ".layers." in name}
    by_muon = stacked if recipe.optimizer == "muon" else set()
    rest = [each for name, each in trained.items() if name not in by_muon]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "lion":
        return {"lion": Lion(groups, lr=recipe.learning_rate)}
    adamw = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
    if not by_muon:
        return {"adamw": adamw}
    muon = torch.optim.Muon(
        [trained[name] for name in sorted(by_muon)],
        lr=recipe.learning_rate * MUON_RATE,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return {"adamw": adamw, "muon": muon}


def _learn(
    accelerator: Accelerator,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[Batch],
    recipe: LoopRecipe,
    where: str,
) -> dict[str, float]:
    """Take one step; return the mean loss and figures of the batches, and their images in all."""
    # The whole model's: what an earlier phase left on frozen weights would count in the norm.
    model.zero_grad()
    rows: list[dict[str, float]] = []
    for batch in batches:
        loss, figures = model(**{key: value.to(accelerator.device) for key, value in batch.items()})
        accelerator.backward(loss / recipe.batches)
        rows.append({"loss": loss.item()} | {key: value.item() for key, value in figures.items()})
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    values = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    values["images"] *= len(rows)
    if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
        raise SaymaskError(
            f"a loss and its gradient must be finite; {where} gave {values['loss']:g} and "
            f"{norm:g}; train again in another folder with a lower learning rate"
        )
    for optimizer in optimizers:
        optimizer.step()
    return values


_UNREADABLE = (
    EOFError, LookupError, OSError, RuntimeError, TypeError, UnpicklingError, ValueError,
)  # fmt: skip
"""What torch raises on a file that is cut, foreign or of another network."""


def _resume(path: Path, parts: Parts) -> int:
    """Fill `parts` from a saved state; return the first step to take."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["step"]
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} must be a state of this training; it is damaged or of another: "
            f"{textwrap.shorten(str(error), 200)}; delete it or give another folder to start afresh"
        ) from error


def _save(path: Path, step: int, parts: Parts) -> None:
    partial = path.with_name(f"{path.name}.partial")
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, partial)
    partial.replace(path)


class _Log:
    """The means over each window of steps, as a file with a line of JSON for each."""

    def __init__(self, path: Path, recipe: LoopRecipe) -> None:
        self.path = path
        self.recipe = recipe
        self.window: list[Mapping[str, float]] = []
        self.started = time.monotonic()

    def cut(self, first: int) -> None:
        """Forget the steps from `first` on, which a resumed run takes again."""
        # A line that a kill has torn has no newline.
        lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < first]
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(self.path)

    def add(self, step: int, figures: Mapping[str, float]) -> str:
        """Take one step's figures; return their means over the window so far as text.

        A window ends before every multiple of `log_every`, wherever the run began, and at the end.
        """
        self.window.append(figures)
        means = {name: float(np.mean([each[name] for each in self.window])) for name in figures}
        seconds = max(time.monotonic() - self.started, 1e-9)
        means["images_per_s"] = len(self.window) * means.pop("images") / seconds
        if (step + 1) % self.recipe.log_every == 0 or step + 1 == self.recipe.steps:
            with self.path.open("a") as log:
                log.write(f"{json.dumps({'step': step} | means)}\n")
            self.window, self.started = [], time.monotonic()
        return ", ".join(f"{name} {value:.3f}" for name, value in means.items())
