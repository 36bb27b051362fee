import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.spec import StageSpec

from ..language import quantized_folders


@pytest.fixture
def changed_bundle(tmp_path, tiny_bundle):
    """The tiny bundle with one golden output that its graph doesn't give: infinities."""
    source = Bundle.read(tiny_bundle)
    golden = source.golden()
    golden["mask/iou"] = np.full_like(golden["mask/iou"], np.inf)
    files = {
        name: source.folder / name for name, _ in source.manifest.files if name != "golden.npz"
    }
    return Bundle.write(tmp_path / "changed", source.manifest, files, golden).folder


def test_a_good_bundle_passes(tiny_bundle, capsys):
    assert main(["check", str(tiny_bundle), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.endswith("good") for line in lines[1:])
    assert lines[-1].split()[:3] == ["all", "logits", "fp32"]


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_stage_that_differs_fails_and_says_its_tolerance(changed_bundle, capsys):
    assert main(["check", str(changed_bundle), "--device", "cpu"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "differs" in line]
    assert line.split()[:2] == ["mask", "iou"]
    assert line.endswith("differs: needs relative <= 0.001, IoU >= 0.99")


@pytest.mark.filterwarnings("ignore:invalid value")
def test_json_has_no_infinity(changed_bundle, capsys):
    assert main(["check", str(changed_bundle), "--json", "--device", "cpu"]) == 1
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert not found["is_good"]
    (wrong,) = [row for row in found["outputs"] if not row["is_within"]]
    assert (wrong["output"], wrong["max_abs"]) == ("iou", None)
    assert wrong["tolerance"] == {"relative": 0.001, "mask_iou": 0.99}


def test_a_device_that_is_not_there_is_code_4(tiny_bundle, capsys):
    assert main(["check", str(tiny_bundle), "--device", "cuda:99"]) == 4
    assert "cuda:99" in capsys.readouterr().err


@pytest.fixture
def folder_bundle(tmp_path, tiny_bundle):
    """Writes the tiny bundle with a language model for TensorRT-LLM beside its graphs."""

    def folder_bundle(**changes):
        theirs = quantized_folders.write(tmp_path / "theirs", "fp8")
        quantized_folders.change(theirs, **changes)
        source = Bundle.read(tiny_bundle)
        language = StageSpec(
            name="language", file="stages/language", inputs=(), outputs=(), precision="fp8",
            reason="asked for",
        )  # fmt: skip
        files = {name: source.folder / name for name, _ in source.manifest.files}
        manifest = replace(source.manifest, stages=(*source.manifest.stages, language))
        files["stages/language"] = theirs
        return str(Bundle.write(tmp_path / "new", manifest, files, source.golden()).folder)

    return folder_bundle


def test_a_quantized_folder_is_looked_through(folder_bundle, capsys):
    assert main(["check", folder_bundle(), "--device", "cpu"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split() == ["language", "folder", "fp8", "-", "-", "-", "-", "good"]


def test_what_does_not_fit_in_a_folder_fails_by_name(folder_bundle, capsys):
    changes = {"model/norm/weight": None, "lm_head/weight": torch.zeros(1).half()}
    bundle = folder_bundle(**changes)
    assert main(["check", bundle, "--device", "cpu"]) == 1
    row, *said = capsys.readouterr().out.splitlines()[-3:]
    assert row.endswith("2 things do not fit")
    assert said[0] == "language: model.norm.weight must be F16 or BF16 (256,); it is missing"
    assert said[1].startswith("language: lm_head.weight must be ")
    assert main(["check", bundle, "--json", "--device", "cpu"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [len(misfits) for misfits in found["misfits"].values()] == [2]
