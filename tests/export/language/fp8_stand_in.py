"""Does what ModelOpt's Python is asked for, in FP8 with a scale for each matrix, and no ranges.

It is started as a file by its path, like an interpreter: `-I JOB SOURCE TEXTS TARGET PRECISION`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LARGEST = 448


def quantize(source: Path, texts: Path, target: Path) -> None:
    """Write the folder, and a loss that is made up."""
    tensors = {}
    for file in source.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            tensors[name] = tensor
            if name.endswith("_proj.weight"):
                scale = tensor.float().abs().max().clip(1e-6) / LARGEST
                tensors[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
                tensors[f"{name}_scale"] = scale
                tensors[name.replace("weight", "input_scale")] = torch.tensor(0.1)
    save_file(tensors, target / "model.safetensors")
    short = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    (target / "hf_quant_config.json").write_text(json.dumps({"quantization": short}))
    config = {"quantization_config": {"quant_method": "modelopt", **short}}
    (target / "config.json").write_text(json.dumps(config))
    loss = {"before": 8.0, "after": 9.5, "agreement": 0.75}
    (texts / "loss.json").write_text(json.dumps(loss))


if __name__ == "__main__":
    quantize(*map(Path, sys.argv[3:6]))
