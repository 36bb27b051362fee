"""LLaVA as a whole: what it sees and its Llama, under the names of LLaVA-NeXT's checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .clip import CLIP_SPECS
from .llama import LLAMA_SPECS, Llama, LlamaSpec
from .llava import LlavaVision, LlavaVisionSpec

__all__ = ["LLAVA_SPECS", "LlavaLlama", "LlavaLlamaSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaLlamaSpec:
    """Sizes of one LLaVA."""

    vision: LlavaVisionSpec
    """What sees."""
    language: LlamaSpec
    """What reads and writes."""


LLAVA_SPECS = {
    "llama3-llava-next-8b": LlavaLlamaSpec(
        vision=LlavaVisionSpec(
            vision_tower=CLIP_SPECS["vit-l/14-336"], language_width=4096, has_newline=True
        ),
        language=LLAMA_SPECS["llama-3-8b"],
    ),
    "mini": LlavaLlamaSpec(
        vision=LlavaVisionSpec(
            vision_tower=CLIP_SPECS["mini"], language_width=256, has_newline=False
        ),
        language=LLAMA_SPECS["mini"],
    ),
}


class LlavaLlama(nn.Module):
    """Views and words in, words out."""

    def __init__(self, spec: LlavaLlamaSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.spec = spec
        self.vision = LlavaVision(spec.vision)
        self.language = Llama(spec.language)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by their names in a checkpoint, `model.*` and `lm_head.weight`."""
        seen = {f"model.{name}": each for name, each in self.vision.state_dict().items()}
        return seen | self.language.state_dict()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take the weights that `tensors` gives; all of them must be there, and no others."""
        names = {f"model.{name}" for name in self.vision.state_dict()}
        seen = {name.removeprefix("model."): tensors[name] for name in names}
        self.vision.load_state_dict(seen)
        self.language.load_state_dict({k: v for k, v in tensors.items() if k not in names})
