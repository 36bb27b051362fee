"""The graphs a stage could run as on a target: FP32, and one for each form of small numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from ..runtime.errors import UnknownNameError
from . import signs
from .attention import attention_tensors
from .bias_correction import correct_biases, output_errors
from .fp8 import FP8_KEEP
from .fusion import fold_norms, fold_scales, turn_keys, weigh_maps
from .histogram import Histogram
from .lowering import Lower, joined_tensors, lower_cpu, lower_openvino
from .memory import give_back
from .migration import migrate, migrated_tensors
from .observers import Observer
from .passes import part_products, replace_resizes, split_gemms
from .peaks import runs_for_peaks
from .plan import FLOATS, NodePlan, name_int8, only, plan_nodes
from .ranges import MEMORY_MIB, Range, observe
from .smoothing import smooth, smoothed_tensors
from .static import quantized_tensors
from .storage import spill
from .symmetric import lower_symmetric, symmetric_tensors
from .weight_only import weight_only

__all__ = [
    "FORMS",
    "OBSERVER",
    "TRANSFORMS",
    "USUAL_TRANSFORMS",
    "Calibration",
    "Candidate",
    "candidates",
    "node_precisions",
    "plannable",
]

OBSERVER = Observer(method="mse")
"""What makes ranges where nothing else is said."""
TRANSFORMS = ("smooth", "migrate", "signs", "bias")
"""What may be done to a graph before it is rounded: uneven channels move into the weights of
products (`smoothing`) and of convolutions (`migration`), keys turn to one side of zero (`signs`),
and what rounding adds on average comes off static INT8's biases (`bias_correction`)."""
USUAL_TRANSFORMS = ("smooth", "migrate")
"""What is done where nothing else is said: docs/precision.md has what each of them gains."""
_EXTREMES = Observer(method="minmax")
"""What FP8 takes: its steps grow with the numbers, so outliers cost little."""
_WITH_BIASES = ("int8", "int8-static")
LowerOf = Callable[[onnx.ModelProto, Mapping[str, NodePlan]], onnx.ModelProto]
"""Writes a graph as a plan says."""
_DYNAMIC_KEEP = MappingProxyType({"Conv": "dynamic scales are for products"})
_WEIGHTS_KEEP = MappingProxyType({"Conv": "its weights would be made real before every run"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One graph a stage could run as."""

    precision: str
    """"fp32", or what its nodes are quantized to: a value of `FORMS`."""
    model: onnx.ModelProto
    """The graph, with the inputs and outputs of the FP32 one."""
    plan: Mapping[str, NodePlan]
    """What each weighted node computes in, and why; empty for FP32."""
    lower: Lower | None = None
    """Writes this plan, or one with fewer quantized nodes, as a graph; None for FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How ranges are taken; see `ranges.observe`."""

    observer: Observer = OBSERVER
    """Which range of a tensor's values INT8 scales cover."""
    transforms: Collection[str] = USUAL_TRANSFORMS
    """Which of `TRANSFORMS` come first; all but "bias" leave what FP32 computes as it is."""
    threads: int = 1
    """Threads of one operator."""
    memory_mib: int = MEMORY_MIB
    """What inner tensors may take."""
    work: Path | None = None
    """Folder to keep this graph's ranges in, or None."""
    weight_bits: int | None = None
    """8, or 7 for processors whose sums overflow; None takes what is right on this one. Of CPUs
    alone."""
    folder: Path | None = None
    """Takes the weights of rewritten graphs, which must outlive them; None holds them in memory."""
    outputs: Sequence[Path] = ()
    """See `ranges.observe`: where what FP32 makes of each run is left, if a pass goes over all."""
    say: Callable[[str], None] = lambda line: None
    """Is told how far the ranges are."""


_CALIBRATION = Calibration()


def plannable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP32 graph whose nodes a plan names."""
    return part_products(split_gemms(replace_resizes(model)))


def candidates(
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    target: str = "cpu",
    precision: str = "int8",
    calibration: Calibration = _CALIBRATION,
    keep: Mapping[str, str] | None = None,
    given: Mapping[str, NodePlan] | None = None,
) -> tuple[Candidate, ...]:
    """Quantize a graph in every way that a target has for a precision, or as a plan says.

    Args:
        model: FP32 graph of one stage, opset 18 to 21.
        feeds: Real inputs by name; see `ranges.observe`.
        target: First part of the keys of `FORMS`.
        precision: Second part of them.
        calibration: How ranges are taken.
        keep: Nodes and operators that stay FP32, with reasons; see `plan.plan_nodes`.
        given: A plan to follow instead, which may mix `node_precisions` and quantize what would
            stay FP32; see `plan_file.check_plan`. Its ranges are kept apart.

    Returns:
        FP32 first, then each form in which a node is quantized; with a plan one, if it quantizes
        a node.

    Raises:
        UnknownNameError: The target has no such precision.
        UsageError: `keep` names what cannot be planned, or see `ranges.observe`.
        EngineError: See `ranges.observe`.
    """
    known = [name for where, name in FORMS if where == target]
    if precision not in known:
        raise UnknownNameError(f"a precision of target {target}", precision, known)
    found = [Candidate(precision="fp32", model=replace_resizes(model), plan={})]
    plain, forms = plannable(found[0].model), FORMS[target, precision]
    if given is None:
        plans = [
            name_int8(plan_nodes(plain, keep={**form.keep, **(keep or {})}), form.precision)
            for form in forms
        ]
    else:
        plans, calibration = [given], _apart(calibration, given)
    stage = _Stage(plain, feeds, calibration)
    # Where there are several forms, the first one writes the others' nodes too.
    for form, plan in zip(forms, plans, strict=False):
        if any(each.precision not in FLOATS for each in plan.values()):
            found.append(form.make(stage, plan, form.precision))
    return tuple(found)


def node_precisions(target: str, precision: str) -> tuple[str, ...]:
    """Return what the nodes of a plan can be given where `precision` is asked for on `target`."""
    return ("fp32", *(form.precision for form in FORMS[target, precision]))


def _apart(calibration: Calibration, given: Mapping[str, NodePlan]) -> Calibration:
    """Keep ranges where those of another plan, which are of other tensors, are not in the way."""
    precisions = repr([(name, each.precision) for name, each in given.items()])
    name = f"plan-{hashlib.sha256(precisions.encode()).hexdigest()[:12]}"
    return replace(calibration, work=calibration.work and calibration.work / name)


class _Stage:
    """A graph to quantize, and the data that it meets."""

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Sequence[Mapping[str, np.ndarray]],
        calibration: Calibration,
    ) -> None:
        self.plain, self.weight_bits = model, calibration.weight_bits
        self._feeds, self._calibration = feeds, calibration

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph with even channels and keys on one side; it computes the same."""
        wanted, model = self._calibration.transforms, self.plain
        axes = smoothed_tensors(model) if "smooth" in wanted else {}
        axes |= migrated_tensors(model) if "migrate" in wanted else {}
        found = self._peaks(model, "channels", axes)
        absmax = {name: histogram.absmax for name, histogram in found.items()}
        if "smooth" in wanted:
            model = self._spilled("smooth", smooth(model, absmax))
        if "migrate" in wanted:
            model = self._spilled("even", migrate(model, absmax))
        if "signs" in wanted:
            found = self._peaks(model, "keys", signs.signed_tensors(model))
            centers = {name: (each.lows + each.highs) / 2 for name, each in found.items()}
            model = self._spilled("signs", signs.turn_keys(model, centers))
        return model

    def candidate(
        self, precision: str, plan: Mapping[str, NodePlan], model: onnx.ModelProto, lower: LowerOf
    ) -> Candidate:
        """Return the candidate that `lower` makes of a graph and a plan."""
        lower_plan = partial(lower, model)
        if "bias" in self._calibration.transforms and precision in _WITH_BIASES:
            threads = self._calibration.threads
            lowered = self._spilled(f"{precision}.uncorrected", lower_plan(plan))
            errors = output_errors(model, lowered, plan, self._feeds, threads=threads)
            lower_plan = partial(_lower_corrected, model, lower, errors)
        lowered = self._spilled(precision, lower_plan(plan))
        return Candidate(precision=precision, model=lowered, plan=plan, lower=lower_plan)

    @cached_property
    def fused(self) -> onnx.ModelProto:
        """The same graph with less between the products, as OpenVINO wants it."""
        folded = self._spilled("folded", fold_norms(self.model))
        return self._spilled("fused", weigh_maps(turn_keys(fold_scales(folded))))

    def ranges(
        self,
        kept: str,
        model: onnx.ModelProto,
        tensors: Sequence[str],
        *,
        symmetric: Collection[str] = (),
        observer: Observer | None = None,
    ) -> dict[str, Range]:
        """Take the ranges of tensors of a graph, some symmetric; kept in a folder of that name."""
        observer = observer or self._calibration.observer
        return {
            name: observer.range(histogram, is_symmetric=name in symmetric)
            for name, histogram in self._histograms(model, self._feeds, kept, tensors, {}).items()
        }

    def _spilled(self, name: str, model: onnx.ModelProto) -> onnx.ModelProto:
        # One pass at a time: each holds the weights that it rewrote, gigabytes in large graphs.
        folder = self._calibration.folder
        return spill(model, folder / f"{name}.onnx") if folder else model

    def _peaks(
        self, model: onnx.ModelProto, kept: str, axes: Mapping[str, int]
    ) -> dict[str, Histogram]:
        """Take how far the channels of tensors reach."""
        feeds = runs_for_peaks(model, self._feeds, axes)
        return self._histograms(model, feeds, kept, tuple(axes), axes)

    def _histograms(
        self,
        model: onnx.ModelProto,
        feeds: Sequence[Mapping[str, np.ndarray]],
        kept: str,
        tensors: Sequence[str],
        channel_axes: Mapping[str, int],
    ) -> dict[str, Histogram]:
        calibration = self._calibration
        if not tensors:
            return {}
        give_back()  # What the last pass rewrote is on disk now.
        return observe(
            model,
            feeds,
            tensors,
            threads=calibration.threads,
            channel_axes=channel_axes,
            memory_mib=calibration.memory_mib,
            work=calibration.work and calibration.work / kept,
            outputs=calibration.outputs if len(feeds) == len(self._feeds) else (),
            say=calibration.say,
        )


def _static(stage: _Stage, plan: Mapping[str, NodePlan], precision: str) -> Candidate:
    tensors = quantized_tensors(stage.model, only(plan, precision))
    ranges = stage.ranges("ranges", stage.model, tensors)
    lower = partial(_lower_integers, lower_cpu, ranges, stage.weight_bits)
    return stage.candidate(precision, plan, stage.model, lower)


def _dynamic(stage: _Stage, plan: Mapping[str, NodePlan], precision: str) -> Candidate:
    lower = partial(_lower_integers, lower_cpu, {}, stage.weight_bits)
    return stage.candidate(precision, plan, stage.model, lower)


def _fused(stage: _Stage, plan: Mapping[str, NodePlan], precision: str) -> Candidate:
    wanted = only(plan, precision)
    rounded = attention_tensors(stage.fused, wanted)
    tensors = dict.fromkeys((*quantized_tensors(stage.fused, wanted, sums_only=True), *rounded))
    symmetric = joined_tensors(stage.fused).union(rounded)
    ranges = stage.ranges("fused", stage.fused, tuple(tensors), symmetric=symmetric)
    lower = partial(_lower_integers, lower_openvino, ranges, stage.weight_bits)
    return stage.candidate(precision, plan, stage.fused, lower)


def _symmetric(stage: _Stage, plan: Mapping[str, NodePlan], precision: str) -> Candidate:
    tensors = symmetric_tensors(stage.model, only(plan, precision), element=precision)
    observer = _EXTREMES if precision == "fp8" else None
    ranges = stage.ranges("symmetric", stage.model, tensors, symmetric=tensors, observer=observer)
    lower = partial(_lower_symmetric, ranges, precision)
    return stage.candidate(precision, plan, stage.model, lower)


def _weights(stage: _Stage, plan: Mapping[str, NodePlan], precision: str) -> Candidate:
    return stage.candidate(precision, plan, stage.model, partial(_lower_weights, precision))


def _lower_corrected(
    model: onnx.ModelProto,
    lower: LowerOf,
    errors: Mapping[str, np.ndarray],
    plan: Mapping[str, NodePlan],
) -> onnx.ModelProto:
    return lower(correct_biases(model, plan, errors), plan)


def _lower_integers(
    write: Callable[..., onnx.ModelProto],
    ranges: Mapping[str, Range],
    weight_bits: int | None,
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
) -> onnx.ModelProto:
    return write(model, plan, ranges, weight_bits=weight_bits)


def _lower_symmetric(
    ranges: Mapping[str, Range],
    element: str,
    model: onnx.ModelProto,
    plan: Mapping[str, NodePlan],
) -> onnx.ModelProto:
    return lower_symmetric(model, only(plan, element), ranges, element=element)


def _lower_weights(
    precision: str, model: onnx.ModelProto, plan: Mapping[str, NodePlan]
) -> onnx.ModelProto:
    return weight_only(model, only(plan, precision), bits=_WEIGHT_BITS[precision])


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to hold a stage's numbers."""

    precision: str
    """What its quantized nodes compute in."""
    make: Callable[[_Stage, Mapping[str, NodePlan], str], Candidate]
    """Makes the candidate of a plan."""
    keep: Mapping[str, str]
    """What it leaves in floating point, with reasons."""


_WEIGHT_BITS = {"int8-weights": 8, "int4-weights": 4}
_FOR_TENSORRT = {
    "int8": (_Form("int8", _symmetric, {}),),
    "fp8": (_Form("fp8", _symmetric, FP8_KEEP),),
    "int8-weights": (_Form("int8-weights", _weights, _WEIGHTS_KEEP),),
    "int4-weights": (_Form("int4-weights", _weights, _WEIGHTS_KEEP),),
}
FORMS = {
    ("cpu", "int8"): (
        _Form("int8-static", _static, {}),
        _Form("int8-dynamic", _dynamic, _DYNAMIC_KEEP),
    ),
    ("openvino", "int8"): (_Form("int8-static", _fused, {}),),
    **{
        (target, precision): forms
        for target in ("rtx", "tensorrt")
        for precision, forms in _FOR_TENSORRT.items()
    },
}
"""Target and precision asked for -> the forms that a stage may take; where there are several, the
quickest that is good enough is taken."""
