import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import pytest
import torch

from saymask.export.checkpoint import MINIATURES, open_checkpoint
from saymask.export.dialect import match
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from saymask.export.models.sam2 import SAM2_SPECS
from saymask.export.systems.evf_sam import MINIATURE, load
from saymask.export.weights import map_tensors
from saymask.runtime.table import table

from .official import ROWS, official_state, write_official

SAMPLES = MINIATURES / MINIATURE / "samples"
VARIANTS = sorted(EVF_SAM_SPECS.keys() - {"mini"})
SMALL = (
    "sam-h-beit3-large", "sam2-l-beit3-large", "efficientsam-s-beit3-base",
    "efficientvit-l0-beit3-large", "efficientvit-xl1-beit3-base",
)  # fmt: skip
"""The largest of each kind and both sizes of BEiT-3: those that are quantized too."""
MOST_MIB = {"sam-h-beit3-large": 12 * 1024}
"""Peak memory an export may take, where it is promised."""
STEP = re.compile(r"saymask: (?P<step>.+?) +(?P<seconds>[\d.]+) +(?P<peak_mib>\d+)")
"""A line of the table that an export ends with."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_weights_fit_name_by_name(variant):
    with torch.device("meta"):
        wanted = EvfSam(EVF_SAM_SPECS[variant]).state_dict()
    state = official_state(variant)
    found = match(list(state.items()), wanted)
    assert found.misfits == ()
    has_memory = variant.startswith("sam2-")
    assert ("visual_model.maskmem_tpos_enc" in state) == has_memory
    assert (len(state) > len(wanted)) == has_memory


@pytest.mark.parametrize(
    ("variant", "visual", "max_tokens"),
    [
        ("sam-h-beit3-large", None, 1022),
        ("sam2-l-beit3-base", SAM2_SPECS["mini"], 1022),
        ("efficientvit-l0-beit3-base", None, 48),
    ],
)
def test_a_tiny_stand_in_opens_and_loads(
    variant, visual, max_tokens, tiny_spec, tmp_path, monkeypatch
):
    words = replace(tiny_spec.multimodal_encoder, max_positions=1024, vocabulary=ROWS)
    visual = visual or tiny_spec.visual_model
    spec = replace(tiny_spec, visual_model=visual, multimodal_encoder=words)
    monkeypatch.setitem(EVF_SAM_SPECS, variant, spec)
    write_official(tmp_path / "release", variant, seed=0, shard_bytes=50_000)
    opened = open_checkpoint(tmp_path / "release")
    assert (opened.config.variant, opened.config.max_tokens) == (variant, max_tokens)
    assert len(opened.weight_files) > 2
    stored = dict(map_tensors(opened.weight_files))
    assert stored.keys() == official_state(variant).keys()
    for name, value in load(opened).state_dict().items():
        assert torch.equal(value, stored[name].to(value.dtype))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone after the test; these are gigabytes."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def _saymask(*words: object) -> tuple[str, str]:
    """Run `saymask` in a process of its own and return its stdout and stderr."""
    program = "import sys; from saymask.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("variant", VARIANTS)
def test_official_sizes_become_bundles_and_engines(variant, folder, capfd):
    bundle, rows = _exported(variant, folder)
    _saymask("check", bundle)
    for precision in ("fp32", "fp16"):
        flags = [f"--{precision}"] if precision != "fp32" else []
        _saymask("build", bundle, "--target", "rtx", *flags, "--json")
        rows += _engine_rows(json.loads(_saymask("info", bundle, "--json")[0]), precision)
    with capfd.disabled():
        print(f"\n{variant}\n{table(('step', 'seconds', 'peak MiB'), rows)}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("variant", SMALL)
def test_official_sizes_become_engines_of_small_numbers(variant, precision, folder, capfd):
    bundle, rows = _exported(variant, folder, f"--{precision}", "--target", "rtx")
    _saymask("build", bundle, "--target", "rtx", "--fp16", "--json")
    rows += _engine_rows(json.loads(_saymask("info", bundle, "--json")[0]), "fp16")
    with capfd.disabled():
        title = f"{variant} {precision}"
        print(f"\n{title}\n{table(('step', 'seconds', 'peak MiB'), rows)}")


def _exported(variant: str, folder: Path, *flags: str) -> tuple[Path, list[tuple[str, ...]]]:
    """Export random official weights of a variant; return the bundle and what each step took."""
    checkpoint, bundle = folder / "release", folder / "bundle"
    write_official(checkpoint, variant, seed=0)
    began = perf_counter()
    words = ("--samples", SAMPLES, "--sample-limit", 1, "--out", bundle)
    _, said = _saymask("export", "evf-sam", "--checkpoint", checkpoint, *words, *flags)
    steps = [found.groups() for found in map(STEP.fullmatch, said.splitlines()) if found]
    assert [step for step, *_ in steps][-1] == "write"
    peak_mib = max(int(mib) for *_, mib in steps)
    assert peak_mib <= MOST_MIB.get(variant, float("inf"))
    return bundle, [("all of it", f"{perf_counter() - began:.0f}", str(peak_mib)), *steps]


def _engine_rows(bundle: dict, precision: str) -> list[tuple[str, str, str]]:
    """Say what each engine took, and how much of it was built in which precision."""
    rows = []
    small = {each["name"]: each["precision"] for each in bundle["stages"]}
    for engine in bundle["engines"]:
        assert not engine["is_stale"]
        assert engine["precision"] == precision
        expected = {"fp32": precision}.get(small[engine["stage"]], small[engine["stage"]])
        shares = {each["precision"]: each["share"] for each in engine["shares"]}
        assert sum(shares.values()) == pytest.approx(1)
        assert expected in shares
        work = ", ".join(f"{share:.1%} {each}" for each, share in shares.items())
        peak_mib = engine["peak_memory_bytes"] >> 20
        step = f"{engine['stage']} in {precision} (of multiply-adds {work})"
        rows.append((step, f"{engine['seconds']:.0f}", str(peak_mib)))
    assert len(rows) == len(bundle["stages"])
    return rows
