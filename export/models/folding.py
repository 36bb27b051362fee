"""Tensors that follow from the weights alone, which an engine should hold instead of work out."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Foldable", "fold"]


class Foldable(nn.Module):
    """A module with such a tensor."""

    folded: Tensor | None
    """The tensor once `fold` has worked it out; no state dict has it."""

    def __init__(self) -> None:
        """Start unfolded."""
        super().__init__()
        self.register_buffer("folded", None, persistent=False)

    @abstractmethod
    def worked_out(self) -> Tensor:
        """Work the tensor out from the weights."""

    def constant(self) -> Tensor:
        """Return the tensor: the folded one, or worked out so that it follows the weights."""
        return self.worked_out() if self.folded is None else self.folded


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Fold every such tensor of `network`, whose weights must not change any more."""
    for module in network.modules():
        if isinstance(module, Foldable):
            module.folded = module.worked_out().clone()
