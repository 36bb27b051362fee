"""A Llama network in NumPy that computes in the format of the folder that it is read from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

GROUP = 128


def unpacked(packed: np.ndarray) -> np.ndarray:
    """Turn (n / 2, m) bytes into (n, m) integers from -8 to 7, the low half first."""
    halves = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, packed.shape[1])
    return ((halves ^ 8).astype(np.int16) - 8).astype(np.float32)


class Network:
    """What a Hugging Face folder holds, quantized or not."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.stored = load_file(folder / "model.safetensors")

    def floats(self, name: str) -> np.ndarray | None:
        tensor = self.stored.get(name)
        return None if tensor is None else tensor.float().numpy()

    def weight(self, layer: str) -> np.ndarray:
        """(out, in) weights as they multiply a smoothed input."""
        stored = self.stored[f"{layer}.weight"]
        scale = self.floats(f"{layer}.weight_scale")
        if scale is None:
            return stored.float().numpy()
        if stored.dtype == torch.uint8:
            return unpacked(stored.numpy()) * np.repeat(scale, GROUP, axis=1)
        return stored.float().numpy() * (scale[:, None] if scale.ndim else scale)

    def linear(self, layer: str, x: np.ndarray) -> np.ndarray:
        smoothing, step = (
            self.floats(f"{layer}.pre_quant_scale"),
            self.floats(f"{layer}.input_scale"),
        )
        bias = self.floats(f"{layer}.bias")
        x = x if smoothing is None else x * smoothing
        if step is not None:
            x = self._rounded(x / step, self.stored[f"{layer}.weight"].dtype) * step
        return x @ self.weight(layer).T + (0 if bias is None else bias)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Read (n, width) vectors; return (n, vocabulary) scores."""
        x = vectors
        for layer in range(self.config["num_hidden_layers"]):
            block = f"model.layers.{layer}"
            x = x + self._attention(f"{block}.self_attn", self._norm(f"{block}.input_layernorm", x))
            y = self._norm(f"{block}.post_attention_layernorm", x)
            gate, up = (self.linear(f"{block}.mlp.{name}_proj", y) for name in ("gate", "up"))
            x = x + self.linear(f"{block}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
        return self.linear("lm_head", self._norm("model.norm", x))

    @staticmethod
    def _rounded(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        if dtype == torch.int8:
            return np.clip(np.rint(x), -128, 127)
        clipped = torch.from_numpy(np.clip(x, -448, 448).astype(np.float32))
        return clipped.to(torch.float8_e4m3fn).float().numpy()

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        power = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(power + self.config["rms_norm_eps"]) * self.floats(f"{name}.weight")

    def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
        heads, kv_heads = (self.config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
        q, k, v = (self.linear(f"{name}.{kind}_proj", x) for kind in "qkv")
        q, k, v = (
            part.reshape(len(x), count, -1).swapaxes(0, 1)
            for part, count in ((q, heads), (k, kv_heads), (v, kv_heads))
        )
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (self._turned(k), v))
        scores = self._turned(q) @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        seen = weights / weights.sum(-1, keepdims=True) @ v
        return self.linear(f"{name}.o_proj", seen.swapaxes(0, 1).reshape(len(x), -1))

    def _turned(self, x: np.ndarray) -> np.ndarray:
        half = x.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** (-np.arange(half) / half)
        angles = np.outer(np.arange(x.shape[1]), frequencies)
        a, b = x[..., :half], x[..., half:]
        cosines, sines = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=-1)
