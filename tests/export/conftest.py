"""A tiny EVF-SAM with random weights, its checkpoint, and the bundle it becomes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch

from saymask.export import pipeline
from saymask.export.checkpoint import CheckpointConfig, write_checkpoint
from saymask.export.models.efficientvit import EFFICIENTVIT_SPECS
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam, EvfSamSpec
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam_visual import SamVisualSpec
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.train import samples
from saymask.train.vocabulary import learn_sentencepiece

PICTURES = 3
ROWS = 64
MINI = EVF_SAM_SPECS["mini"]
TINY = EvfSamSpec(
    visual_model=SamVisualSpec(
        image_encoder=replace(
            EFFICIENTVIT_SPECS["mini"],
            image_hw=(48, 64),
            grid_hw=(12, 16),
            widths=(8, 16, 32),
            depths=(0, 0, 1),
            blocks=("res", "fmb", "att5"),
            expansions=(1, 2, 2),
            keeps_last_norm_only=(False, False, True),
            head_width=16,
            neck_width=16,
            neck_depth=1,
            out_width=32,
        ),
        mask_decoder=SamSpec(
            width=32, heads=2, mlp_width=32, grid_hw=(12, 16), frame_hw=(48, 64), eps=1e-6
        ),
        mask_choice="single",
    ),
    multimodal_encoder=replace(
        MINI.multimodal_encoder,
        width=32,
        depth=2,
        heads=2,
        ffn_width=64,
        image_hw=(16, 24),
        vocabulary=ROWS,
    ),
)
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from conftest import EVF_SAM_SPECS, TINY, main

def kill(event, details):
    if event == "os.rename" and str(details[1]) == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

EVF_SAM_SPECS["tiny"] = TINY
sys.addaudithook(kill)
sys.exit(main(sys.argv[3:]))
"""
"""An export that dies when all is written and only the last rename is missing."""


@dataclass(frozen=True)
class Killed:
    """How an export ended that was killed."""

    out: Path
    log: str
    """What it wrote on stderr."""
    left: tuple[str, ...]
    """Names in the folder of `out` when it was dead."""


@pytest.fixture(scope="session")
def tiny_spec() -> Iterator[EvfSamSpec]:
    """Sizes of the tiny EVF-SAM, which checkpoints may name as their variant meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EVF_SAM_SPECS, "tiny", TINY)
        yield TINY


@pytest.fixture(scope="session")
def tiny_network(tiny_spec: EvfSamSpec) -> EvfSam:
    """A tiny EVF-SAM whose statistics and tokens are not the trivial ones; don't change it."""
    torch.manual_seed(0)
    network = EvfSam(tiny_spec).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "cls_token")):
            tensor.normal_(std=0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_network: EvfSam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint of `tiny_network` with a few samples of the world."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tasks = ("single", "semantic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "PICTURES", PICTURES)
        samples.write_samples(folder.parent, tasks=tasks)
        lines = (folder.parent / "samples" / samples.PHRASES_FILE).read_text().splitlines()
        vocabulary = learn_sentencepiece((json.loads(line)["text"] for line in lines), rows=ROWS)
        config = CheckpointConfig(
            system="evf-sam", variant="tiny", max_tokens=48, license="Apache-2.0"
        )
        write = partial(samples.write_samples, tasks=tasks)
        write_checkpoint(folder, tiny_network, config, vocabulary, extras=write)
    return folder


@pytest.fixture(scope="session")
def killed_export(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """An export in a process of its own that was killed at its last step."""
    out = tmp_path_factory.mktemp("bundles") / "tiny-fp32"
    words = ("export", "evf-sam", "--checkpoint", tiny_checkpoint, "--out", out, "--threads", "1")
    command = [sys.executable, "-c", KILLED, *map(str, (Path(__file__).parent, out, *words))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return Killed(out, done.stderr, tuple(path.name for path in out.parent.iterdir()))


@pytest.fixture(scope="session")
def fp32_bundle(killed_export: Killed, tiny_checkpoint: Path) -> Bundle:
    """The FP32 bundle of `tiny_checkpoint`, exported where another export was killed."""
    words = ("--checkpoint", tiny_checkpoint, "--out", killed_export.out, "--threads", "1")
    assert main(["export", "evf-sam", *map(str, words)]) == 0
    return Bundle.read(killed_export.out)


@pytest.fixture(scope="session")
def graphs(fp32_bundle: Bundle) -> dict[str, onnx.ModelProto]:
    """The graphs of `fp32_bundle` by stage."""
    return {
        stage.name: onnx.load(fp32_bundle.folder / stage.file)
        for stage in fp32_bundle.manifest.stages
    }


@pytest.fixture
def traced(graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares an export the seconds of tracing what is traced already."""
    monkeypatch.setattr(pipeline, "trace", lambda stage: graphs[stage.name])
