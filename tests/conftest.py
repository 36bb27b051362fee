"""A complete small bundle, and what tests against public reference code share.

The bundle is three ONNX graphs that find the pixels of the color that is named.
"""

from __future__ import annotations

import io
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.spec import (
    SCHEMA_VERSION,
    Manifest,
    SourceSpec,
    StageSpec,
    TensorSpec,
    TokenizerSpec,
    ViewSpec,
)

COLORS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
SENTENCES = [f"the {color} square left of a {other} one" for color in COLORS for other in COLORS]
SAM = ViewSpec(
    name="sam",
    size_hw=(64, 64),
    fit="pad",
    interpolation="bilinear",
    is_antialiased=True,
    rounds_to_uint8=False,
    mean_rgb=(127.5, 127.5, 127.5),
    std_rgb=(127.5, 127.5, 127.5),
    canvas_hw=(64, 64),
)
BEIT = ViewSpec(
    name="beit",
    size_hw=(32, 32),
    fit="stretch",
    interpolation="bicubic",
    is_antialiased=False,
    rounds_to_uint8=False,
    mean_rgb=(127.5, 127.5, 127.5),
    std_rgb=(127.5, 127.5, 127.5),
    canvas_hw=(64, 64),
)
STAGES = {
    "image": (
        [("image", "float32", (1, 3, 64, 64))],
        [("image_embedding", "float32", (1, 4, 16, 16))],
    ),
    "prompt": (
        [("image", "float32", (1, 3, 32, 32)), ("token_ids", "int64", ("phrases", "tokens"))],
        [("prompt_embedding", "float32", ("phrases", 1, 4))],
    ),
    "mask": (
        [
            ("image_embedding", "float32", (1, 4, 16, 16)),
            ("prompt_embedding", "float32", ("phrases", 1, 4)),
        ],
        [
            ("logits", "float32", ("phrases", 1, 64, 64)),
            ("iou", "float32", ("phrases", 1)),
        ],
    ),
}


PARITY_ROWS = pytest.StashKey[list[tuple[str, str, str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--references",
        type=Path,
        help="folder with clones of the public reference repositories that no package holds",
    )
    parser.addoption(
        "--modelopt-python", type=Path, help="interpreter of ModelOpt's own environment"
    )


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests that press it, whoever started them in a background of theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def references(pytestconfig) -> Path:
    """Folder with a clone of each reference repository, under its name on GitHub."""
    folder = pytestconfig.getoption("--references")
    if folder is None:
        pytest.skip("no --references folder with the clones of the reference repositories")
    return folder


@pytest.fixture
def report_parity(pytestconfig):
    """Takes (module, reference, max_abs, iou or None) for the table at the run's end."""

    def report(module: str, reference: str, max_abs: float, iou: float | None = None) -> None:
        row = module, reference, f"{max_abs:.1e}", "" if iou is None else f"{iou:.5f}"
        pytestconfig.stash.setdefault(PARITY_ROWS, []).append(row)

    return report


def pytest_terminal_summary(terminalreporter, config) -> None:
    rows = config.stash.get(PARITY_ROWS, [])
    if not rows:
        return
    terminalreporter.section("parity with the reference code, FP32")
    for row in [("module", "reference", "max abs", "mask IoU"), *rows]:
        terminalreporter.line("{:44} {:32} {:>9} {:>9}".format(*row))


@pytest.fixture
def frame() -> np.ndarray:
    """(90, 120, 3) uint8: gray, with a red square left and a blue one right."""
    frame = np.full((90, 120, 3), 128, np.uint8)
    frame[20:60, 10:50] = 255, 0, 0
    frame[30:70, 70:110] = 0, 0, 255
    return frame


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """Folder of a bundle that segments `frame` truly; read it, don't change it."""
    vocabulary = _vocabulary()
    files = {f"stages/{name}.onnx": graph for name, graph in _graphs(vocabulary).items()}
    files["tokenizer/tiny.spm"] = vocabulary
    return _write(tmp_path_factory.mktemp("bundles") / "tiny", files).folder


@pytest.fixture(scope="session")
def fp8_bundle(tiny_bundle, tmp_path_factory) -> Path:
    """Folder of `tiny_bundle` for TensorRT, in FP8 where ONNX Runtime refuses it; only read it."""
    source = Bundle.read(tiny_bundle)
    *stages, mask = source.manifest.stages
    manifest = replace(
        source.manifest,
        precision="fp8",
        target="rtx",
        stages=(*stages, replace(mask, precision="fp8")),
    )
    files = {name: tiny_bundle / name for name, _ in source.manifest.files}
    files[mask.file] = _in_fp8((tiny_bundle / mask.file).read_bytes())
    folder = tmp_path_factory.mktemp("bundles") / "tiny-fp8-rtx"
    return Bundle.write(folder, manifest, files, source.golden()).folder


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Path:
    """Folder of the shipped miniature's INT8 bundle; read it, don't change it."""
    folder = tmp_path_factory.mktemp("miniature") / "evf-sam-mini-int8"
    words = ["export", "evf-sam", "--int8", "--sample-limit", "12", "--out", str(folder)]
    assert main(words) == 0
    return folder


def _write(folder: Path, files: dict[str, bytes]) -> Bundle:
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        system="evf-sam",
        variant="tiny",
        precision="fp32",
        target="cpu",
        stages=tuple(
            StageSpec(
                name=name,
                file=f"stages/{name}.onnx",
                inputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in inputs),
                outputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in outputs),
                precision="fp32",
                reason="nothing else was asked for",
            )
            for name, (inputs, outputs) in STAGES.items()
        ),
        views=(SAM, BEIT),
        tokenizer=TokenizerSpec(
            kind="xlm-roberta", file="tokenizer/tiny.spm", max_tokens=16, rows=100
        ),
        settings=(),
        templates=(("semantic", "[semantic] {phrase}"),),
        mask_threshold=0.0,
        source=SourceSpec(name="tiny", sha256="0" * 64, license="CC0-1.0"),
        quality=(),
        latency=(),
        machine="",
        files=(),
    )
    return Bundle.write(folder, manifest, files, _golden(files))


def _golden(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Run the graphs one after the other on noise, as an exporter does."""
    import onnxruntime

    generator = np.random.default_rng(0)
    golden = {
        "frame": generator.integers(0, 256, (48, 80, 3), np.uint8),
        "phrases": np.array(["the red square", "a blue one"]),
        "image/image": generator.normal(size=(1, 3, 64, 64)).astype(np.float32),
        "prompt/image": generator.normal(size=(1, 3, 32, 32)).astype(np.float32),
        "prompt/token_ids": np.array([[0, 5, 6, 2], [0, 7, 2, 1]]),
    }
    for stage, (_, outputs) in STAGES.items():
        if stage == "mask":
            golden["mask/image_embedding"] = golden["image/image_embedding"]
            golden["mask/prompt_embedding"] = golden["prompt/prompt_embedding"]
        session = onnxruntime.InferenceSession(files[f"stages/{stage}.onnx"])
        feeds = {node.name: golden[f"{stage}/{node.name}"] for node in session.get_inputs()}
        for (name, _, _), result in zip(outputs, session.run(None, feeds), strict=True):
            golden[f"{stage}/{name}"] = np.asarray(result)
    return golden


def _vocabulary() -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="word",
        vocab_size=12,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def _graphs(vocabulary: bytes) -> dict[str, bytes]:
    """Stage name -> ONNX; the logit of a pixel is color . named color - 1.5."""
    from onnx import helper

    node = helper.make_node
    patch_mean = np.zeros((4, 3, 4, 4), np.float32)
    patch_mean[[0, 1, 2], [0, 1, 2]] = 1 / 16
    steps = {
        "image": [
            node("Conv", ["image", "patch_mean", "one"], ["image_embedding"], strides=[4, 4])
        ],
        "prompt": [
            node("Gather", ["words", "token_ids"], ["word_embedding"]),
            node("ReduceSum", ["word_embedding", "axis_1"], ["phrase"], keepdims=1),
            node("ReduceMean", ["image", "axes_123"], ["brightness"], keepdims=0),
            node("Mul", ["brightness", "little"], ["shift"]),
            node("Add", ["phrase", "offset"], ["color"]),
            node("Add", ["color", "shift"], ["prompt_embedding"]),
        ],
        "mask": [
            node("Resize", ["image_embedding", "", "scales"], ["pixels"], mode="nearest"),
            node("Reshape", ["pixels", "flat"], ["columns"]),
            node("MatMul", ["prompt_embedding", "columns"], ["rows"]),
            node("Reshape", ["rows", "plane"], ["logits"]),
            node("ReduceMax", ["rows", "axis_2"], ["best"], keepdims=0),
            node("Sigmoid", ["best"], ["iou"]),
        ],
    }
    constants = {
        "image": {"patch_mean": patch_mean, "one": np.float32([0, 0, 0, 1])},
        "prompt": {
            "words": _words(vocabulary),
            "axis_1": np.array([1]),
            "axes_123": np.array([1, 2, 3]),
            "little": np.float32([0.01]),
            "offset": np.float32([0, 0, 0, -1.5]),
        },
        "mask": {
            "scales": np.float32([1, 1, 4, 4]),
            "flat": np.array([1, 4, -1]),
            "plane": np.array([-1, 1, 64, 64]),
            "axis_2": np.array([2]),
        },
    }
    return {name: _onnx(name, steps[name], constants[name]) for name in STAGES}


def _in_fp8(graph: bytes) -> bytes:
    """Round both factors of a mask stage's product to FP8."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.ModelProto.FromString(graph)
    model.opset_import[0].version = 19  # The first with FP8.
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    model.graph.initializer.extend([numpy_helper.from_array(np.float32(0.01), "scale"), zero])
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type} {number}"
        for position, name in enumerate(node.input if node.op_type == "MatMul" else ()):
            small, real = f"{name} small", f"{name} real"
            node.input[position] = real
            nodes += [
                helper.make_node("QuantizeLinear", [name, "scale", "zero"], [small], small),
                helper.make_node("DequantizeLinear", [small, "scale", "zero"], [real], real),
            ]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _words(vocabulary: bytes) -> np.ndarray:
    """(ids, 4) float32: the color that a word names, zero for the other words."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    words = np.zeros((pieces.get_piece_size() + 1, 4), np.float32)
    for color, rgb in COLORS.items():
        words[pieces.piece_to_id(f"\u2581{color}") + 1, :3] = rgb
    return words


def _onnx(stage: str, steps: list, constants: dict[str, np.ndarray]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    inputs, outputs = (
        [
            helper.make_tensor_value_info(
                name, getattr(TensorProto, {"float32": "FLOAT", "int64": "INT64"}[dtype]), shape
            )
            for name, dtype, shape in tensors
        ]
        for tensors in STAGES[stage]
    )
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(steps, stage, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
