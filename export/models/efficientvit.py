"""EfficientViT-SAM's image encoder: convolutions, ReLU linear attention and a neck onto one grid.

Source: EfficientViT-SAM (arXiv 2402.05008) and its reference implementation, whose parameter names
are kept. Every normalisation has epsilon 1e-6 and every GELU is the tanh approximation, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sam import LayerNorm2d

__all__ = ["EFFICIENTVIT_SPECS", "EfficientViTSamImageEncoder", "EfficientViTSpec"]

EPS = 1e-6
"""Epsilon the reference sets on every normalisation after construction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientViTSpec:
    """Sizes of one EfficientViT-SAM image encoder, stage 0 first."""

    image_hw: tuple[int, int]
    """Height and width of the image view in pixels."""
    grid_hw: tuple[int, int]
    """Height and width of the image embedding in cells."""
    widths: tuple[int, ...]
    """Channels of each stage."""
    depths: tuple[int, ...]
    """Residual blocks of each stage after its strided one."""
    blocks: tuple[str, ...]
    """Block kind of each stage: "res", "fmb", "mb", "att5" or "att3" (linear attention, kernel)."""
    expansions: tuple[int, ...]
    """Channel expansion of each stage; the strided block takes four times as much."""
    keeps_last_norm_only: tuple[bool, ...]
    """True where a block's inner convolutions have biases and no BatchNorm."""
    head_width: int
    """Channels of one linear attention head."""
    neck_width: int
    """Channels of the neck."""
    neck_depth: int
    """Fused blocks of the neck."""
    neck_expansion: int
    """Channel expansion of the neck's blocks."""
    out_width: int
    """Channels of the image embedding."""


def _large(depths: tuple[int, ...], neck_depth: int) -> EfficientViTSpec:
    return EfficientViTSpec(
        image_hw=(512, 512), grid_hw=(64, 64), widths=(32, 64, 128, 256, 512), depths=depths,
        blocks=("res", "fmb", "fmb", "mb", "att5"), expansions=(1, 4, 4, 4, 6),
        keeps_last_norm_only=(False, False, False, True, True), head_width=32,
        neck_width=256, neck_depth=neck_depth, neck_expansion=1, out_width=256,
    )  # fmt: skip


def _extra_large(depths: tuple[int, ...], neck_depth: int) -> EfficientViTSpec:
    return EfficientViTSpec(
        image_hw=(1024, 1024), grid_hw=(64, 64), widths=(32, 64, 128, 256, 512, 1024),
        depths=depths, blocks=("res", "fmb", "fmb", "fmb", "att3", "att3"),
        expansions=(1, 4, 4, 4, 4, 6),
        keeps_last_norm_only=(False, False, False, False, True, True), head_width=32,
        neck_width=256, neck_depth=neck_depth, neck_expansion=4, out_width=256,
    )  # fmt: skip


EFFICIENTVIT_SPECS = {
    "l0": _large((1, 1, 1, 4, 4), 4),
    "l1": _large((1, 1, 1, 6, 6), 8),
    "l2": _large((1, 2, 2, 8, 8), 12),
    "xl0": _extra_large((0, 1, 1, 2, 3, 3), 6),
    "xl1": _extra_large((1, 2, 2, 4, 6, 6), 12),
    "mini": EfficientViTSpec(
        image_hw=(120, 160), grid_hw=(15, 20), widths=(16, 24, 48, 96, 128),
        depths=(1, 1, 2, 2, 2), blocks=("res", "fmb", "fmb", "mb", "att5"),
        expansions=(1, 4, 4, 2, 2), keeps_last_norm_only=(False, False, False, True, True),
        head_width=32, neck_width=96, neck_depth=2, neck_expansion=1, out_width=128,
    ),
}  # fmt: skip


class ConvLayer(nn.Module):
    """Convolution with optional BatchNorm and GELU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        has_norm: bool = True,
        has_bias: bool = False,
        has_activation: bool = True,
    ) -> None:
        """Build the layer with same padding."""
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=has_bias
        )
        self.norm = nn.BatchNorm2d(outputs, eps=EPS) if has_norm else None
        self.has_activation = has_activation

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, inputs, height, width) to float (batch, outputs, ...)."""
        features = self.conv(features)
        if self.norm is not None:
            features = self.norm(features)
        return functional.gelu(features, approximate="tanh") if self.has_activation else features


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, has_inner_norm: bool
    ) -> None:
        """Build both; `has_inner_norm` False trades the first BatchNorm for a bias."""
        super().__init__()
        middle = inputs * expansion
        inner = {"has_norm": has_inner_norm, "has_bias": not has_inner_norm}
        self.conv1 = ConvLayer(inputs, middle, 3, stride=stride, **inner)
        self.conv2 = ConvLayer(middle, outputs, 3, has_activation=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, inputs, height, width) to float (batch, outputs, ...)."""
        return self.conv2(self.conv1(features))


class FusedMBConv(nn.Module):
    """A widening 3 x 3 convolution and a narrowing 1 x 1."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, has_inner_norm: bool
    ) -> None:
        """Build both; `has_inner_norm` False trades the first BatchNorm for a bias."""
        super().__init__()
        middle = inputs * expansion
        inner = {"has_norm": has_inner_norm, "has_bias": not has_inner_norm}
        self.spatial_conv = ConvLayer(inputs, middle, 3, stride=stride, **inner)
        self.point_conv = ConvLayer(middle, outputs, 1, has_activation=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, inputs, height, width) to float (batch, outputs, ...)."""
        return self.point_conv(self.spatial_conv(features))


class MBConv(nn.Module):
    """A widening 1 x 1, a depthwise 3 x 3 and a narrowing 1 x 1 convolution."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, has_inner_norm: bool
    ) -> None:
        """Build the three; `has_inner_norm` False trades the inner BatchNorms for biases."""
        super().__init__()
        middle = inputs * expansion
        inner = {"has_norm": has_inner_norm, "has_bias": not has_inner_norm}
        self.inverted_conv = ConvLayer(inputs, middle, 1, **inner)
        self.depth_conv = ConvLayer(middle, middle, 3, stride=stride, groups=middle, **inner)
        self.point_conv = ConvLayer(middle, outputs, 1, has_activation=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, inputs, height, width) to float (batch, outputs, ...)."""
        return self.point_conv(self.depth_conv(self.inverted_conv(features)))


LOCAL_BLOCKS: dict[str, type[nn.Module]] = {"res": ResBlock, "fmb": FusedMBConv, "mb": MBConv}


class LiteMLA(nn.Module):
    """Multi-scale ReLU linear attention (EfficientViT, section 3.1)."""

    def __init__(self, width: int, head_width: int, kernel: int) -> None:
        """Build queries, keys and values at two scales and their projection."""
        super().__init__()
        self.head_width = head_width
        self.qkv = ConvLayer(width, 3 * width, 1, has_norm=False, has_activation=False)
        aggregate = nn.Sequential(
            nn.Conv2d(
                3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width, bias=False
            ),
            nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // head_width, bias=False),
        )
        self.aggreg = nn.ModuleList([aggregate])
        self.proj = ConvLayer(2 * width, width, 1, has_activation=False)

    def forward(self, features: Tensor) -> Tensor:
        """Mix float (batch, width, height, width) over all cells in time linear in their number."""
        qkv = self.qkv(features)
        qkv = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)
        return self.proj(self.attend(qkv.float()).to(qkv.dtype))

    def attend(self, qkv: Tensor) -> Tensor:
        """Map float32 qkv (batch, 3 channels, height, width) to (batch, channels, height, width).

        Keys are divided by the number of cells, which cancels in the quotient and keeps the sums
        over all cells inside FP16's range; epsilon is divided alike, so the result is exact. It is
        a bound here and not an addend, which the exporter would drop as too small to count.
        """
        height, width = qkv.shape[-2:]
        cells = height * width
        heads = qkv.flatten(2).unflatten(1, (-1, 3 * self.head_width))
        query, key, value = heads.split(self.head_width, dim=2)
        query, key = functional.relu(query), functional.relu(key) * (1.0 / cells)
        value = functional.pad(value, (0, 0, 0, 1), value=1.0)
        mixed = (value @ key.transpose(-1, -2)) @ query
        mixed = mixed[:, :, :-1] / mixed[:, :, -1:].clamp(min=1e-15 / cells)
        return mixed.flatten(1, 2).unflatten(-1, (height, width))


class Residual(nn.Module):
    """A block with or without its shortcut."""

    def __init__(self, main: nn.Module, *, has_shortcut: bool) -> None:
        """Wrap `main`."""
        super().__init__()
        self.main = main
        self.has_shortcut = has_shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, inputs, height, width) to what `main` makes of it."""
        return features + self.main(features) if self.has_shortcut else self.main(features)


class EfficientViTBlock(nn.Module):
    """Linear attention for context, then an MBConv for local detail."""

    def __init__(self, width: int, head_width: int, expansion: int, kernel: int) -> None:
        """Build both with shortcuts."""
        super().__init__()
        self.context_module = Residual(LiteMLA(width, head_width, kernel), has_shortcut=True)
        self.local_module = Residual(
            MBConv(width, width, stride=1, expansion=expansion, has_inner_norm=False),
            has_shortcut=True,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, width, height, width) to the same shape."""
        return self.local_module(self.context_module(features))


class Sequence(nn.Module):
    """Blocks in order, under the reference's name `op_list`."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        """Hold `blocks`."""
        super().__init__()
        self.op_list = nn.ModuleList(blocks)

    def forward(self, features: Tensor) -> Tensor:
        """Map float (batch, channels, height, width) to what the last block makes of it."""
        for block in self.op_list:
            features = block(features)
        return features


class Backbone(nn.Module):
    """The stages; each halves the resolution."""

    def __init__(self, spec: EfficientViTSpec) -> None:
        """Build stage 0 from the image and every later one from the one before."""
        super().__init__()
        stem: nn.Module = ConvLayer(3, spec.widths[0], 3, stride=2)
        stages = [Sequence([stem, *_residual_blocks(spec, 0)])]
        for stage in range(1, len(spec.widths)):
            kind = spec.blocks[stage] if spec.blocks[stage] in LOCAL_BLOCKS else "mb"
            strided = LOCAL_BLOCKS[kind](
                spec.widths[stage - 1],
                spec.widths[stage],
                2,
                4 * spec.expansions[stage],
                not spec.keeps_last_norm_only[stage],
            )
            blocks = [Residual(strided, has_shortcut=False), *_residual_blocks(spec, stage)]
            stages.append(Sequence(blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map float (batch, 3, height, width) to the features of every stage, stage 0 first.

        Stage s gives float (batch, widths[s], height / 2 ** (s + 1), width / 2 ** (s + 1)), rounded
        up.
        """
        features = [image]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


def _residual_blocks(spec: EfficientViTSpec, stage: int) -> list[nn.Module]:
    kind, width, expansion = spec.blocks[stage], spec.widths[stage], spec.expansions[stage]
    if kind.startswith("att"):
        kernel = int(kind.removeprefix("att"))
        return [
            EfficientViTBlock(width, spec.head_width, expansion, kernel)
            for _ in range(spec.depths[stage])
        ]
    has_inner_norm = not spec.keeps_last_norm_only[stage]
    return [
        Residual(LOCAL_BLOCKS[kind](width, width, 1, expansion, has_inner_norm), has_shortcut=True)
        for _ in range(spec.depths[stage])
    ]


class Neck(nn.Module):
    """The last three stages on one grid, summed and refined."""

    def __init__(self, spec: EfficientViTSpec) -> None:
        """Build an input layer per stage, the deepest first."""
        super().__init__()
        self.grid_hw = spec.grid_hw
        self.input_ops = nn.ModuleList(
            Sequence([ConvLayer(width, spec.neck_width, 1, has_activation=False)])
            for width in reversed(spec.widths[-3:])
        )
        self.middle = Sequence(
            [
                Residual(
                    FusedMBConv(spec.neck_width, spec.neck_width, 1, spec.neck_expansion, True),
                    has_shortcut=True,
                )
                for _ in range(spec.neck_depth)
            ]
        )
        out = ConvLayer(
            spec.neck_width, spec.out_width, 1, has_norm=False, has_bias=True, has_activation=False
        )
        self.output_ops = nn.ModuleList([Sequence([out])])

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Map the features of all stages to float (batch, out_width, rows, columns)."""
        merged = [
            self._on_grid(layer(features))
            for layer, features in zip(self.input_ops, reversed(stages[-3:]), strict=True)
        ]
        return self.output_ops[0](self.middle(torch.stack(merged).sum(0)))

    def _on_grid(self, features: Tensor) -> Tensor:
        if tuple(features.shape[-2:]) == self.grid_hw:
            return features.float()
        return functional.interpolate(
            features.float(), self.grid_hw, mode="bicubic", align_corners=False
        )


class EfficientViTSamImageEncoder(nn.Module):
    """Image view in, image embedding for SAM's mask decoder out."""

    def __init__(self, spec: EfficientViTSpec) -> None:
        """Build the networks of `spec` with random weights."""
        super().__init__()
        self.backbone = Backbone(spec)
        self.neck = Neck(spec)
        self.norm = LayerNorm2d(spec.out_width, eps=EPS)

    def forward(self, image: Tensor) -> Tensor:
        """Map float (batch, 3, height, width) to float (batch, out_width, rows, columns)."""
        return self.norm(self.neck(self.backbone(image)))
