"""Writes a bundle of SAM4MLLM: a small model that answers as told, and graphs that draw it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from saymask.runtime.bundle import Bundle
from saymask.runtime.spec import (
    SCHEMA_VERSION,
    Manifest,
    SourceSpec,
    StageSpec,
    TensorSpec,
    ViewSpec,
)
from saymask.runtime.systems.sam4mllm_protocol import (
    MINIATURE,
    Protocol,
    settings_from_protocol,
    settings_from_tiling,
)
from saymask.runtime.tiling import TilingSpec

from . import tiny_chat

SAM = ViewSpec(
    name="sam",
    size_hw=(48, 64),
    fit="pad",
    interpolation="bilinear",
    is_antialiased=True,
    rounds_to_uint8=False,
    mean_rgb=(127.5, 127.5, 127.5),
    std_rgb=(127.5, 127.5, 127.5),
    canvas_hw=(96, 128),
)
VISION = ViewSpec(
    name="vision",
    size_hw=(24, 32),
    fit="stretch",
    interpolation="bicubic",
    is_antialiased=True,
    rounds_to_uint8=False,
    mean_rgb=(127.5, 127.5, 127.5),
    std_rgb=(127.5, 127.5, 127.5),
    canvas_hw=(24, 32),
)
ONE_VIEW = TilingSpec(view=VISION, tokens_hw=(3, 4), grids=())
TILES = TilingSpec(view=VISION, tokens_hw=(3, 4), grids=((1, 2), (2, 1)))
PROTOCOL = replace(MINIATURE, system="Look.", point_count=3, max_tokens=8, context_tokens=512)

_STAGES = {
    "image": (
        [("image", "float32", (1, 3, 48, 64))],
        [("image_embedding", "float32", (1, 3, 12, 16))],
    ),
    "vision": (
        [("pixels", "float32", ("tiles", 3, 24, 32))],
        [("image_embeddings", "float32", ("tiles", "tokens", 64))],
    ),
    "mask": (
        [
            ("image_embedding", "float32", (1, 3, 12, 16)),
            ("points_xy", "float32", ("masks", "points", 2)),
            ("labels", "int64", ("masks", "points")),
        ],
        [
            ("logits", "float32", ("masks", 3, 24, 32)),
            ("iou", "float32", ("masks", 3)),
        ],
    ),
}


def write(
    folder: Path,
    answer: str = tiny_chat.BOX,
    protocol: Protocol = PROTOCOL,
    *,
    tiling: TilingSpec = ONE_VIEW,
    **model: object,
) -> Path:
    """Write the bundle of a model that answers the first question with `answer`."""
    gguf = tiny_chat.write(folder.with_suffix(".gguf"), answer, **model)  # pyright: ignore
    graphs = _graphs(has_newline=bool(tiling.grids))
    stages = [
        StageSpec(
            name=name,
            file=f"stages/{name}.{'onnx' if name in graphs else 'gguf'}",
            inputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in inputs),
            outputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in outputs),
            precision="fp32",
            reason="nothing else was asked for",
        )
        for name in ("image", "vision", "language", "mask")
        for inputs, outputs in [_STAGES.get(name, ((), ()))]
    ]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        system="sam4mllm",
        variant="tiny",
        precision="fp32",
        target="cpu",
        stages=tuple(stages),
        views=(SAM, VISION),
        tokenizer=None,
        settings=settings_from_protocol(protocol) + settings_from_tiling(tiling),
        templates=(),
        mask_threshold=0.0,
        source=SourceSpec(name="tiny", sha256="0" * 64, license="CC0-1.0"),
        quality=(),
        latency=(),
        machine="",
        files=(),
    )
    files: dict[str, bytes | Path] = {f"stages/{name}.onnx": it for name, it in graphs.items()}
    files["stages/language.gguf"] = gguf
    golden = {"frame": np.zeros((48, 64, 3), np.uint8), "phrases": np.array(["the red mug"])}
    return Bundle.write(folder, manifest, files, golden).folder


def _graphs(*, has_newline: bool) -> dict[str, bytes]:
    """Stage name -> ONNX; the masks are a box, the box four pixels smaller, and nothing.

    The predicted IoU of the second one grows with the points that lie on the object.
    """
    node = helper.make_node
    rng = np.random.default_rng(0)
    tower = rng.normal(0, 0.1, (64, 3, 8, 8)).astype(np.float32)
    newline_vector = rng.normal(0, 1, (1, 1, 64)).astype(np.float32)
    tower[tiny_chat.STEERING] = newline_vector[..., tiny_chat.STEERING] = 0
    newline = [node("Shape", ["rows"], ["three"]), node("Slice", ["three", "0", "1"], ["tiles"])]
    newline += [node("Concat", ["tiles", "one_by_width"], ["shape"], axis=0)]
    newline += [node("Expand", ["newline", "shape"], ["newlines"])]
    newline += [node("Concat", ["rows", "newlines"], ["image_embeddings"], axis=1)]
    steps = {
        "image": [node("AveragePool", ["image"], ["image_embedding"], kernel_shape=[4, 4],
                       strides=[4, 4])],
        "vision": [
            node("Conv", ["pixels", "tower"], ["grid"], strides=[8, 8]),
            node("Reshape", ["grid", "flat"], ["columns"]),
            node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
            *(newline if has_newline else [node("Identity", ["rows"], ["image_embeddings"])]),
        ],
        "mask": _mask_steps(),
    }  # fmt: skip
    y, x = np.mgrid[2:96:4, 2:128:4].astype(np.float32)
    constants: dict[str, dict[str, np.ndarray]] = {
        "image": {},
        "vision": {
            "tower": tower,
            "flat": np.array([0, 64, -1]),
            "newline": newline_vector,
            "0": np.array([0]),
            "1": np.array([1]),
            "one_by_width": np.array([1, 64]),
        },
        "mask": {
            "xy": np.stack([x, y])[None],
            "two": np.array(2),
            "three": np.array(3),
            "on": np.array(1),
            "axis_1": np.array([1]),
            "axis_2": np.array([2]),
            "nothing": np.float32(0),
            "plane": np.array([0, 2, 1, 1]),
            "margins": np.float32([0, 4, 1000]).reshape(1, 3, 1, 1),
            "sure": np.float32([[0.5, 0.1, 0.2]]),
            "surer": np.float32([[0, 0.2, 0]]),
        },
    }
    return {name: _onnx(name, steps[name], constants[name]) for name in steps}


def _mask_steps() -> list:
    node = helper.make_node
    steps = []
    for corner, number in (("low", "two"), ("high", "three"), ("points", "on")):
        steps += [
            node("Equal", ["labels", number], [f"is_{corner}"]),
            node("Cast", [f"is_{corner}"], [f"{corner}_weight"], to=TensorProto.FLOAT),
        ]
    for corner in ("low", "high"):
        steps += [
            node("Unsqueeze", [f"{corner}_weight", "axis_2"], [f"{corner}_column"]),
            node("Mul", ["points_xy", f"{corner}_column"], [f"{corner}_only"]),
            node("ReduceSum", [f"{corner}_only", "axis_1"], [f"{corner}_xy"], keepdims=0),
            node("Reshape", [f"{corner}_xy", "plane"], [f"{corner}_plane"]),
        ]
    return [
        *steps,
        node("Sub", ["xy", "low_plane"], ["behind"]),
        node("Sub", ["high_plane", "xy"], ["before"]),
        node("Min", ["behind", "before"], ["within"]),
        node("ReduceMin", ["within", "axis_1"], ["depth"], keepdims=1),
        node("Sub", ["depth", "margins"], ["logits"]),
        node("ReduceSum", ["points_weight", "axis_1"], ["count"], keepdims=1),
        node("Mul", ["count", "surer"], ["more"]),
        node("Add", ["more", "sure"], ["raw"]),
        node("ReduceMean", ["image_embedding"], ["brightness"], keepdims=0),
        node("Mul", ["brightness", "nothing"], ["no_brightness"]),
        node("Add", ["raw", "no_brightness"], ["iou"]),
    ]


def _onnx(stage: str, steps: list, constants: dict[str, np.ndarray]) -> bytes:
    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if dtype == "int64" else TensorProto.FLOAT, shape
            )
            for name, dtype, shape in tensors
        ]
        for tensors in _STAGES[stage]
    )
    used = {name for step in steps for name in step.input}
    initializers = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants.items()
        if name in used
    ]
    graph = helper.make_graph(steps, stage, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
