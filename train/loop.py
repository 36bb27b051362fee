"""The training loop: steps that can stop anywhere and go on as if they had not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"

Batch = Mapping[str, Tensor]
DrawBatch = Callable[[np.random.Generator], Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRecipe:
    """How long and how fast to learn."""

    steps: int
    """Optimizer steps in all."""
    learning_rate: float
    """Peak rate; it falls linearly to zero after the warm-up (EVF-SAM, section 4.1)."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly from zero."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, on matrices only."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    seed: int = 0
    """Seeds the batches: step k draws from (seed, k, process), whatever happened before it."""
    save_every: int = 200
    """Steps between two saved states."""
    mixed_precision: str = "bf16"
    """"bf16", "fp16" or "no", as accelerate names them."""
    is_on_cpu: bool = False
    """True to leave a GPU alone."""


def fit(phase: nn.Module, draw_batch: DrawBatch, recipe: LoopRecipe, folder: Path) -> None:
    """Train `phase`, whose forward maps a batch to a loss and figures to show.

    A state is saved every `recipe.save_every` steps and at the end; a second call with the same
    folder goes on from it, and a finished one does nothing. Several processes (accelerate launch)
    draw different batches and average their gradients.

    Args:
        phase: Module with `forward(**batch) -> (loss, figures: dict[str, Tensor])`; figures named
            "images" are counted, others averaged.
        draw_batch: Draws a batch from a generator.
        recipe: How long and how fast.
        folder: Where state and log go.
    """
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision, cpu=recipe.is_on_cpu)
    torch.manual_seed(recipe.seed)
    optimizer = _optimizer(phase, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, recipe))
    folder.mkdir(parents=True, exist_ok=True)
    first = _resume(folder, phase, optimizer, schedule)
    model, optimizer = accelerator.prepare(phase, optimizer)
    bar = tqdm(
        range(first, recipe.steps), initial=first, total=recipe.steps, unit="step", disable=None
    )
    meter = _Meter(folder / LOG_FILE, first)
    model.train()
    for step in bar:
        batch = draw_batch(np.random.default_rng((recipe.seed, step, accelerator.process_index)))
        batch = {name: value.to(accelerator.device) for name, value in batch.items()}
        with accelerator.autocast():
            loss, figures = model(**batch)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        if accelerator.is_main_process:
            bar.set_postfix_str(meter.add(step, loss, figures))
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                meter.flush()
                _save(folder, step + 1, accelerator.unwrap_model(model), optimizer, schedule)


def rate_at(step: int, recipe: LoopRecipe) -> float:
    """Return the learning rate of a step as a share of the peak: linear up, then linear down."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return max(0.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup_steps))


def _optimizer(phase: nn.Module, recipe: LoopRecipe) -> torch.optim.Optimizer:
    trained = [parameter for parameter in phase.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def _resume(
    folder: Path,
    phase: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    phase.load_state_dict(state["phase"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["step"]


def _save(
    folder: Path,
    step: int,
    phase: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    state = {
        "step": step,
        "phase": phase.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    partial = folder / f"{STATE_FILE}.partial"
    torch.save(state, partial)
    os.replace(partial, folder / STATE_FILE)


class _Meter:
    """Running means of what the steps report, for the bar and the log."""

    WINDOW = 20

    def __init__(self, path: Path, first: int) -> None:
        self.lines: list[str] = []
        self.path = path
        kept = [line for line in _lines(path) if json.loads(line)["step"] < first]
        path.write_text("".join(f"{line}\n" for line in kept))
        self.window: list[dict[str, float]] = []
        self.started = time.monotonic()

    def add(self, step: int, loss: Tensor, figures: Mapping[str, Tensor]) -> str:
        """Take one step's figures; return the means over the window as the bar's text."""
        row = {"loss": loss.item()} | {name: value.item() for name, value in figures.items()}
        self.window.append(row)
        means = {name: float(np.mean([r[name] for r in self.window])) for name in row}
        seconds = time.monotonic() - self.started
        means["images_per_s"] = sum(r["images"] for r in self.window) / max(seconds, 1e-9)
        del means["images"]
        if len(self.window) == self.WINDOW:
            self.lines.append(json.dumps({"step": step} | means))
            self.window, self.started = [], time.monotonic()
        return ", ".join(f"{name} {value:.3f}" for name, value in means.items())

    def flush(self) -> None:
        """Write the finished windows to the log."""
        with self.path.open("a") as log:
            log.writelines(f"{line}\n" for line in self.lines)
        self.lines = []


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
