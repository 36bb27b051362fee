"""Tiny systems with random weights, their checkpoints, and the bundles they become."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch

from saymask.export import pipeline
from saymask.export.checkpoint import CheckpointConfig, write_checkpoint
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam, EvfSamSpec
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.train import samples
from saymask.train.vocabulary import learn_sentencepiece

from . import tiny_sam4mllm
from .tiny_evf_sam import ROWS, TINY

PICTURES = 3
KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.runtime.cli import main
from tiny_evf_sam import TINY

def kill(event, details):
    if event == "os.rename" and str(details[1]) == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

EVF_SAM_SPECS["tiny"] = TINY
sys.addaudithook(kill)
sys.exit(main(sys.argv[3:]))
"""
"""A command that dies right before something is renamed to a path."""


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
def run_killed() -> Callable[..., str]:
    """Runs `saymask` until something is renamed to a path, and returns its stderr."""

    def run_killed(path: Path, *words: object) -> str:
        command = [sys.executable, "-c", KILLED, *map(str, (Path(__file__).parent, path, *words))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done.stderr

    return run_killed


@pytest.fixture(scope="session")
def killed_export(
    tiny_checkpoint: Path, run_killed: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Killed:
    """An export in a process of its own that was killed when only its last rename was missing."""
    out = tmp_path_factory.mktemp("bundles") / "tiny-fp32"
    words = ("export", "evf-sam", "--checkpoint", tiny_checkpoint, "--out", out, "--threads", "1")
    log = run_killed(out, *words)
    return Killed(out, log, tuple(path.name for path in out.parent.iterdir()))


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


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a SAM4MLLM's checkpoint whose model finds the same box in every picture."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    with tiny_sam4mllm.known():
        yield tiny_sam4mllm.write(tmp_path_factory.mktemp("checkpoints") / "chat")


@pytest.fixture(scope="session")
def chat_bundle(chat_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The FP32 bundle of `chat_checkpoint`, its language model in F16."""
    out = tmp_path_factory.mktemp("bundles") / "chat-fp32"
    words = ("--checkpoint", chat_checkpoint, "--out", out, "--threads", "1")
    assert main(["export", "sam4mllm", *map(str, words)]) == 0
    return Bundle.read(out)


@pytest.fixture
def chat_traced(chat_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `traced`, for `chat_checkpoint`."""
    graphs = {
        stage.name: onnx.load(chat_bundle.folder / stage.file)
        for stage in chat_bundle.manifest.stages
        if stage.is_graph
    }
    monkeypatch.setattr(pipeline, "trace", lambda stage: graphs[stage.name])
