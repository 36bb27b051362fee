"""Lion: the sign of a running mean of gradients, as large a step for every weight.

Source: Symbolic Discovery of Optimization Algorithms (arXiv 2302.06675), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Its rate is 3 to 10 times below AdamW's, its decay as much above (section 5)."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        """Take parameters or groups of them.

        Args:
            params: What is stepped.
            lr: Size of a step.
            betas: Shares of the mean in the direction of a step, and in the next mean.
            weight_decay: Decoupled decay.
        """
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step along the gradients that are there."""
        for group in self.param_groups:
            of_step, of_mean = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(torch.lerp(weight.grad, mean, of_step).sign_(), alpha=group["lr"])
                mean.lerp_(weight.grad, 1 - of_mean)
