"""FP8: which GPUs compute in it, and what is better left alone."""

from __future__ import annotations

from types import MappingProxyType

from ..runtime.errors import DeviceError

__all__ = ["FP8_KEEP", "LEAST_FP8_SM", "check_fp8"]

FP8_KEEP = MappingProxyType(
    {"Conv": "TensorRT has FP8 convolutions for few shapes, no faster than FP16"}
)
"""What an FP8 plan leaves in floating point, for `plan.plan_nodes`; see NVIDIA/TensorRT 3987, and
the study of YOLOv10 in NVIDIA/TensorRT-Model-Connect: 1.00x at 0.3 AP lost."""

LEAST_FP8_SM = 89
"""First GPUs with FP8 arithmetic, Ada, as compute capability times ten."""


def check_fp8(sm: int) -> None:
    """Refuse a GPU that cannot compute in FP8.

    Args:
        sm: Compute capability times ten.

    Raises:
        DeviceError: It is older than Ada.
    """
    if sm < LEAST_FP8_SM:
        found = f"{sm // 10}.{sm % 10}" + (" (Jetson Orin)" if sm == 87 else "")
        raise DeviceError(
            "FP8 takes a GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell), as older "
            f"ones have no FP8 arithmetic; got {found}; take --int8 or --fp16"
        )
