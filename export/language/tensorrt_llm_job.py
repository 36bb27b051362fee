"""What ModelOpt's own Python runs: a language model and texts in, a quantized folder out.

Before and after, the model says of each token of the texts how likely it was.

It is started as a file by its path, so it imports nothing of this package.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ALGORITHMS", "CONFIGS", "LOSS_FILE", "MISSING", "quantize", "texts"]

CONFIGS = {
    "int4-awq": "INT4_AWQ_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "int8-sq": "INT8_SMOOTHQUANT_CFG",
}
"""Precision -> ModelOpt's name of it; the last layer stays in floats."""
ALGORITHMS = {"int8-sq": {"algorithm": {"method": "smoothquant", "alpha": 0.5}}}
"""Precision -> what is otherwise than in its config. SmoothQuant's own 0.5 (arXiv 2211.10438)
leaves most channels room above what the texts showed; ModelOpt's 1.0 clips each of them there."""
MISSING = 3
"""How the job ends where a library does not import."""
LOSS_FILE = "loss.json"
"""Beside the texts: `before` and `after`, perplexities, and `agreement`, a share of positions."""


def texts(folder: Path) -> Iterator[list[np.ndarray]]:
    """Read texts in the order of their files: parts of (n,) ids or of (n, width) vectors."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as parts:
            yield [parts[f"arr_{at}"] for at in range(len(parts.files))]


def quantize(source: Path, folder: Path, target: Path, precision: str) -> int:
    """Quantize a language model over texts, on a GPU where there is one.

    Args:
        source: Its Hugging Face folder, with weights as safetensors.
        folder: Holds the texts, and takes `LOSS_FILE`.
        target: Takes the quantized folder; floats are stored in FP16.
        precision: Key of `CONFIGS`.

    Returns:
        0, or `MISSING` where ModelOpt or a library that it needs is not installed.
    """
    try:
        quantization = importlib.import_module("modelopt.torch.quantization")
        export = importlib.import_module("modelopt.torch.export")
        transformers = importlib.import_module("transformers")
        torch = importlib.import_module("torch")
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float16,  # The export keeps it, whatever else it is asked for.
        local_files_only=True,
        use_safetensors=True,
    ).to(device)

    def read(parts: list[np.ndarray]) -> Any:
        """Return (n, vocabulary) logits of what follows each of n things."""
        table = model.get_input_embeddings()
        tensors = [torch.from_numpy(part).to(device) for part in parts]
        vectors = [part.to(table.weight) if part.ndim == 2 else table(part) for part in tensors]
        return model(inputs_embeds=torch.cat(vectors)[None], use_cache=False).logits[0]

    with torch.no_grad():
        before, whole = _judge(torch, read, folder)
        config = {**getattr(quantization, CONFIGS[precision]), **ALGORITHMS.get(precision, {})}
        quantization.quantize(model, config, lambda model: [None for _ in map(read, texts(folder))])
        after, small = _judge(torch, read, folder)
        export.export_hf_checkpoint(model, export_dir=target)
    loss = {"before": before, "after": after, "agreement": float((whole == small).mean())}
    (folder / LOSS_FILE).write_text(json.dumps(loss), "utf-8")
    return 0


def _judge(
    torch: Any, read: Callable[[list[np.ndarray]], Any], folder: Path
) -> tuple[float, np.ndarray]:
    """Return the perplexity of all tokens that follow something, and (n,) likeliest ones."""
    logs, likeliest = [], []
    for parts in texts(folder):
        items = [part if part.ndim == 1 else np.full(len(part), -1) for part in parts]
        following = torch.from_numpy(np.concatenate(items)[1:])
        (at,) = torch.where(following >= 0)
        found = read(parts)[at].float().log_softmax(-1).cpu()
        logs.append(found[torch.arange(len(at)), following[at]])
        likeliest.append(found.argmax(-1))
    return math.exp(-torch.cat(logs).mean()), torch.cat(likeliest).numpy()


if __name__ == "__main__":
    sys.exit(quantize(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
