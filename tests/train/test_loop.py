import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from saymask.runtime.errors import CheckpointError, SaymaskError, UnknownNameError, UsageError
from saymask.train.loop import LOG_FILE, STATE_FILE, LoopRecipe, fit, rate_at

RECIPE = LoopRecipe(
    steps=6, learning_rate=0.1, warmup_steps=2, save_every=3, log_every=1,
    mixed_precision="no", is_on_cpu=True,
)  # fmt: skip


class Line(nn.Module):
    """Learns y = x . (1, 2, 3); one part is never used, as in the real phases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.norm = nn.BatchNorm1d(3)
        self.line = nn.Linear(3, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, y):
        error = self.line(self.norm(x))[:, 0] - y
        images = torch.tensor(float(len(x)))
        return error.square().mean(), {"error": error.detach().abs().mean(), "images": images}


def draw(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    x = torch.from_numpy(rng.normal(size=(64, 3)).astype(np.float32))
    return {"x": x, "y": x @ torch.tensor([1.0, 2.0, 3.0])}


class Stack(Line):
    """The same behind two layers, for an optimizer that takes the matrices of a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(3, 3) for _ in range(2))})

    def forward(self, x, y):
        for layer in self.body["layers"]:
            x = torch.tanh(layer(x))
        return super().forward(x, y)


class DrawUntil:
    """Draws like `draw`, until it is killed."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return draw(rng)


@pytest.fixture(autouse=True)
def one_precision_a_test():
    """accelerate keeps the first precision it was asked for until the process ends."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def learn(folder: Path, recipe: LoopRecipe = RECIPE, drawing=draw) -> Line:
    phase = Line()
    fit(phase, drawing, recipe, folder)
    return phase


def logged(folder: Path) -> list[dict[str, float]]:
    """Lines of the log without the speed, which no two runs share."""
    rows = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    return [{name: row[name] for name in row if name != "images_per_s"} for row in rows]


def test_the_rate_climbs_to_the_peak_and_falls_to_zero():
    recipe = replace(RECIPE, steps=12, warmup_steps=4)
    rates = [rate_at(step, recipe) for step in range(13)]
    falling = [1 - step / 8 for step in range(9)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])
    assert rate_at(0, replace(recipe, warmup_steps=0)) == 1


def test_the_rate_may_fall_as_a_cosine():
    recipe = replace(RECIPE, steps=12, warmup_steps=4, schedule="cosine")
    falling = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    rates = [rate_at(step, recipe) for step in range(13)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, *falling])


def test_several_batches_a_step_count_as_one_large_one(tmp_path):
    """The line alone, whose mean over batches is that of one batch; a norm's would not be."""

    class Plain(Line):
        def __init__(self):
            super().__init__()
            self.norm = nn.Identity()

    def halves(rng):
        batch = draw(rng)
        return [{k: v[at : at + 32] for k, v in batch.items()} for at in (0, 32)]

    pieces = []

    def draw_half(rng):
        if not pieces:
            pieces.extend(halves(rng))
        return pieces.pop(0)

    whole, split = Plain(), Plain()
    recipe = replace(RECIPE, steps=1, save_every=1, warmup_steps=0)
    fit(whole, draw, recipe, tmp_path / "whole")
    fit(split, draw_half, replace(recipe, batches=2), tmp_path / "split")
    torch.testing.assert_close(whole.state_dict(), split.state_dict())
    first, second = (logged(tmp_path / name)[0] for name in ("whole", "split"))
    assert first == pytest.approx(second)


@pytest.mark.parametrize("field", ["mixed_precision", "optimizer", "schedule"])
def test_names_that_are_in_no_table_are_refused(field):
    with pytest.raises(UnknownNameError, match=f"{field} must be one of .*; got 'none such'"):
        replace(RECIPE, **{field: "none such"})


def test_a_line_is_learned(tmp_path):
    phase = learn(tmp_path, replace(RECIPE, steps=100, save_every=100))
    losses = [row["loss"] for row in logged(tmp_path)]
    assert losses[-1] < losses[0] / 10
    assert not torch.equal(phase.line.weight, Line().line.weight)
    assert torch.equal(phase.unused.weight, Line().unused.weight)


@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.parametrize("batches", [3, 5])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, batches, log_every):
    recipe = replace(RECIPE, log_every=log_every, steps=7)
    straight = learn(tmp_path / "straight", recipe)
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        learn(killed, recipe, DrawUntil(batches))
    (killed / f"{STATE_FILE}.partial").write_bytes(b"half of a state")
    with (killed / LOG_FILE).open("a") as log:
        log.write('{"step": 4, "lo')
    resumed = learn(killed, recipe, DrawUntil(4))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert logged(killed) == logged(tmp_path / "straight")


def test_muon_takes_the_matrices_of_a_stack_and_adamw_the_rest(tmp_path):
    before = Stack().state_dict()
    changes = {}
    for optimizer in ("adamw", "muon"):
        phase = Stack()
        once = replace(
            RECIPE, steps=1, optimizer=optimizer, learning_rate=1e-3, weight_decay=0, clip_norm=1e-3
        )
        fit(phase, draw, once, tmp_path / optimizer)
        changes[optimizer] = {
            name: value - before[name] for name, value in phase.state_dict().items()
        }
    for name, change in changes["muon"].items():
        is_stacked = name in ("body.layers.0.weight", "body.layers.1.weight")
        assert torch.equal(change, changes["adamw"][name]) != is_stacked, name
        if is_stacked:
            # Muon's step turns its matrix as far in every direction.
            sizes = torch.linalg.svdvals(change)
            assert sizes.max() < 2 * sizes.min()


def test_a_killed_run_goes_on_with_muon_too(tmp_path):
    recipe = replace(RECIPE, steps=7, optimizer="muon", learning_rate=0.01)
    straight, resumed = Stack(), Stack()
    fit(straight, draw, recipe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(Stack(), DrawUntil(5), recipe, tmp_path / "killed")
    fit(resumed, draw, recipe, tmp_path / "killed")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_run_does_nothing(tmp_path, capfd):
    learn(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capfd.readouterr()
    learn(tmp_path, drawing=DrawUntil(0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert capfd.readouterr() == ("", "")


def test_a_line_of_the_log_is_the_mean_of_its_steps(tmp_path):
    learn(tmp_path / "steps", replace(RECIPE, steps=7))
    learn(tmp_path / "windows", replace(RECIPE, steps=7, log_every=3))
    steps, windows = logged(tmp_path / "steps"), logged(tmp_path / "windows")
    assert [row["step"] for row in windows] == [2, 5, 6]
    for row, part in zip(windows, (steps[:3], steps[3:6], steps[6:]), strict=True):
        for name in ("loss", "error"):
            assert row[name] == pytest.approx(np.mean([each[name] for each in part]))


def test_the_log_is_written_between_two_saves(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, drawing=DrawUntil(2))
    assert [row["step"] for row in logged(tmp_path)] == [0, 1]
    assert not (tmp_path / STATE_FILE).exists()


def test_no_line_of_the_log_spans_a_save():
    with pytest.raises(UsageError, match="multiple of log_every.*got 30 and 20"):
        LoopRecipe(steps=6, learning_rate=0.1, save_every=30)


def test_a_precision_whose_state_is_not_saved_is_refused():
    with pytest.raises(UnknownNameError, match="must be one of bf16, no; got 'fp16'"):
        LoopRecipe(steps=6, learning_rate=0.1, mixed_precision="fp16")


def test_one_line_for_each_save_where_nobody_watches(tmp_path, capfd):
    learn(tmp_path / "sam")
    out, err = capfd.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("saymask: sam 3/6: loss ")
    assert second.startswith("saymask: sam 6/6: loss ")
    assert "images_per_s" in second


def test_only_matrices_decay(tmp_path):
    class Still(Line):
        def forward(self, x, y):
            loss, figures = super().forward(x, y)
            return 0 * loss, figures

    phase = Still()
    nn.init.ones_(phase.line.bias)
    fit(phase, draw, replace(RECIPE, weight_decay=0.5), tmp_path)
    left = np.prod([1 - 0.1 * rate_at(step, RECIPE) * 0.5 for step in range(6)])
    np.testing.assert_allclose(phase.line.weight.detach(), Line().line.weight.detach() * left)
    assert phase.line.bias.item() == 1


def test_gradients_of_an_earlier_phase_on_frozen_weights_do_not_count(tmp_path):
    clean, stained = Line(), Line()
    for phase in (clean, stained):
        phase.norm.requires_grad_(False)
    stained.norm.weight.grad = torch.full((3,), 1e3)
    for phase, name in ((clean, "clean"), (stained, "stained")):
        fit(phase, draw, RECIPE, tmp_path / name)
    assert torch.equal(clean.line.weight, stained.line.weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_spoils_anything(tmp_path, bad):
    class Spoiled(DrawUntil):
        def __call__(self, rng):
            batch = draw(rng)
            self.left -= 1
            return batch if self.left >= 0 else batch | {"y": batch["y"] * bad}

    phase = Line()
    with pytest.raises(SaymaskError, match=f"finite; step 4 of {tmp_path.name} gave (nan|inf)"):
        fit(phase, Spoiled(4), RECIPE, tmp_path)
    assert all(value.isfinite().all() for value in phase.line.state_dict().values())
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] == 3
    assert [row["step"] for row in logged(tmp_path)] == [0, 1, 2, 3]


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    class Steep(Line):
        def forward(self, x, y):
            _, figures = super().forward(x, y)
            return (0 * self.line.weight).sum().sqrt(), figures

    with pytest.raises(SaymaskError, match="step 0 of .* gave 0 and nan"):
        fit(Steep(), draw, RECIPE, tmp_path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _scribble(path: Path) -> None:
    path.write_text("no state at all")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _store_a_list(path: Path) -> None:
    torch.save([1, 2], path)


def _store_code(path: Path) -> None:
    torch.save({"step": Path}, path)


def _store_another_network(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["phase"]["line.weight"] = torch.zeros(4, 1)
    torch.save(state, path)


def _store_another_optimizer(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["adamw"]["param_groups"].pop()
    torch.save(state, path)


def _lose_the_step(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["step"]
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage",
    [
        _cut, _scribble, _empty, _store_a_list, _store_code, _store_another_network,
        _store_another_optimizer, _lose_the_step,
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_resumed_is_named(tmp_path, damage):
    learn(tmp_path)
    damage(tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match=r"state\.pt must be a state of this.*; delete it"):
        learn(tmp_path)


def test_bf16_learns_too_and_keeps_its_weights_in_fp32(tmp_path):
    recipe = replace(RECIPE, steps=100, save_every=100, mixed_precision="bf16")
    phase = learn(tmp_path, recipe)
    assert phase.line.weight.dtype == torch.float32
    losses = [row["loss"] for row in logged(tmp_path)]
    assert losses[-1] < losses[0] / 10


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path):
    script = tmp_path / "learn.py"
    script.write_text(
        "import importlib.util, pathlib, sys, torch\n"
        f"spec = importlib.util.spec_from_file_location('test_loop', {__file__!r})\n"
        "test_loop = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(test_loop)\n"
        "phase = test_loop.learn(pathlib.Path(sys.argv[1]))\n"
        "print(phase.line.weight.tolist())\n"
    )
    command = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, script, tmp_path / "run"], capture_output=True, text=True, check=True
    )
    first, second = ended.stdout.splitlines()
    assert first == second
    assert first != str(learn(tmp_path / "alone").line.weight.tolist())
    assert len(logged(tmp_path / "run")) == RECIPE.steps
