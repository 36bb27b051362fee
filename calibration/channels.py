"""Channels that can be scaled without a trace: what makes them is divided, what reads multiplied.

Tensors share their channels where a sum, a ReLU or a change of form lies between them. Dividing the
channels in every constant that makes them and multiplying them in the weights of all that reads
them changes nothing that the graph returns; in powers of two it does not even round differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from .carriers import Place, carried
from .graph import Graph, attribute

__all__ = ["Channels", "Region", "balance"]

_FAINTEST = 2.0**-12
"""Share of the largest peak that a channel is granted at least: it may sleep in the samples."""


@dataclass(frozen=True, slots=True)
class Region:
    """Tensors that share their channels, with all nodes that make or read them, by name."""

    places: dict[str, Place] = field(default_factory=dict)
    """Tensor -> where its channels are."""
    sources: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """What makes the channels with constants: Conv, MatMul, LayerNormalization, Add."""
    carriers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """What hands them on as they are."""
    sinks: dict[str, onnx.NodeProto] = field(default_factory=dict)
    """What reads them with weights: Conv and MatMul."""

    def read(self) -> dict[str, int]:
        """Return the tensors that the sinks read, each with the axis of its channels."""
        names = [node.input[0] for node in self.sinks.values()]
        return {name: self.places[name].axis for name in names}


class Channels:
    """A graph whose channels are followed and scaled; its nodes keep their order and tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Open `model`, which stays as it is; see `Graph`."""
        self.graph = Graph(model)
        self.makers = self.graph.makers()
        self.readers = self.graph.readers()
        self.extents = self.graph.extents()
        self._outputs = {value.name for value in model.graph.output}
        self._rescaled: dict[str, str] = {}

    def regions(self) -> Iterator[Region]:
        """Yield every region that has sinks, in the graph's order."""
        known: set[str] = set()
        for node in self.graph.nodes:
            name = node.output[0]
            rank = len(self.extents.get(name, ()))
            place = Place(1 if node.op_type == "Conv" else rank - 1, rank)
            makes = self._is_source(node, place) or self._is_biased(node, place)
            if name in known or not rank or not makes:
                continue
            region = self.around(name, place)
            if region and region.sinks:
                known.update(region.places)
                yield region

    def around(self, name: str, place: Place, end: str = "") -> Region | None:
        """Return the region of a tensor; None where something else makes or reads its channels.

        Args:
            name: The tensor.
            place: Where its channels are.
            end: Name of a node that may read the channels too: the caller answers for it.
        """
        region = Region()
        waiting = [(name, place)]
        while waiting:
            name, place = waiting.pop()
            if name in region.places and region.places[name] == place:
                continue
            if name in region.places or name in self._outputs or name not in self.makers:
                return None
            region.places[name] = place
            for node in (self.makers[name], *self.readers.get(name, ())):
                if node.name == end:
                    continue
                shared = self._note(region, node, name, place)
                if shared is None:
                    return None
                waiting += shared.items()
        return region

    def factors(
        self, region: Region, absmax: Mapping[str, np.ndarray], strength: float
    ) -> np.ndarray:
        """Return what to divide a region's channels by so that they are more alike.

        Args:
            region: One with sinks.
            absmax: Largest magnitude of each channel of the tensors of `region.read()`,
                (channels,).
            strength: See `balance`; depthwise weights have a scale for each channel and always take
                all of the differences.
        """
        read = _joined(absmax[name] for name in region.read())
        sinks = [node for node in region.sinks.values() if not self.is_depthwise(node)]
        if not sinks:
            return balance(read, np.ones_like(read), 1)
        return balance(read, _joined(self.weight_absmax(node) for node in sinks), strength)

    def rescale(self, region: Region, factors: np.ndarray) -> None:
        """Divide the channels of a region by `factors`, float (channels,), none of them zero."""
        for node in region.sources.values():
            place = region.places[node.output[0]]
            for position, name in enumerate(node.input):
                if name in self.graph.constants:
                    array = self.graph.array(name)
                    axis = _made_axis(node, place, array.ndim)
                    spread = factors.reshape(-1, *[1] * (array.ndim - 1 - axis))
                    self._replace(node, position, array / spread)
        for node in region.sinks.values():
            self.multiply_weights(node, factors)
        self._rescaled |= {name: self.graph.fresh(f"{name}_even") for name in region.places}

    def model(self) -> onnx.ModelProto:
        """Close the graph. What was rescaled has another name: `layerwise` compares by names."""
        graph = (model := self.graph.model()).graph
        for node in graph.node:
            node.input[:] = [self._rescaled.get(name, name) for name in node.input]
            node.output[:] = [self._rescaled.get(name, name) for name in node.output]
        for value in graph.value_info:
            value.name = self._rescaled.get(value.name, value.name)
        return model

    def multiply_weights(self, node: onnx.NodeProto, factors: np.ndarray) -> None:
        """Multiply what a Conv or MatMul weighs its inputs with by `factors`, float (channels,)."""
        weight = self.graph.array(node.input[1])
        if node.op_type == "MatMul":
            self._replace(node, 1, weight * factors[:, None])
            return
        groups, per_group = attribute(node, "group", 1), weight.shape[1]
        grouped = weight.reshape(groups, -1, per_group, *weight.shape[2:])
        spread = factors.reshape(groups, 1, per_group, *[1] * (weight.ndim - 2))
        self._replace(node, 1, (grouped * spread).reshape(weight.shape))

    def weight_absmax(self, node: onnx.NodeProto) -> np.ndarray:
        """Return the largest magnitude a Conv or MatMul weighs each input with, (channels,)."""
        weight = np.abs(self.graph.array(node.input[1]))
        if node.op_type == "MatMul":
            return weight.max(axis=1)
        groups, per_group = attribute(node, "group", 1), weight.shape[1]
        return weight.reshape(groups, -1, per_group, weight[0, 0].size).max(axis=(1, 3)).ravel()

    def is_scalar(self, name: str) -> bool:
        """Say whether a tensor is a constant with one element."""
        return name in self.graph.constants and not any(each != 1 for each in self._dims(name))

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Say whether a node is a convolution whose filters read one channel each."""
        is_grouped = node.op_type == "Conv" and attribute(node, "group", 1) > 1
        return is_grouped and self._dims(node.input[1])[1:2] == (1,)

    def _note(
        self, region: Region, node: onnx.NodeProto, name: str, place: Place
    ) -> dict[str, Place] | None:
        """Note what a node has to do with a tensor's channels and return who shares them.

        None where it must see the channels as they are.
        """
        is_maker = name in node.output
        if is_maker and self._is_source(node, place):
            region.sources[node.name] = node
            return {}
        if not is_maker and self._is_sink(node, name, place):
            region.sinks[node.name] = node
            return {}
        if self._is_biased(node, place):
            region.sources[node.name] = node
            computed = next(each for each in node.input if each not in self.graph.constants)
            return {computed: place, node.output[0]: place}
        region.carriers[node.name] = node
        return carried(self.graph, self.extents, node, name, place) or None

    def _is_source(self, node: onnx.NodeProto, place: Place) -> bool:
        if node.op_type not in ("Conv", "LayerNormalization", "MatMul"):
            return False
        is_last = place.axis == place.rank - 1
        if node.op_type == "Conv":
            is_its_axis = place.axis == 1
        else:
            is_its_axis = is_last and attribute(node, "axis", -1) in (-1, place.axis)
        return is_its_axis and self._has_weights(node)

    def _is_sink(self, node: onnx.NodeProto, name: str, place: Place) -> bool:
        axis = {"Conv": 1, "MatMul": place.rank - 1}.get(node.op_type)
        return node.input[0] == name and axis == place.axis and self._has_weights(node)

    def _has_weights(self, node: onnx.NodeProto) -> bool:
        """Say whether all that a node reads besides its first input is constant, a plain weight."""
        names = [name for name in node.input[1:] if name]
        is_plain = node.op_type != "MatMul" or len(self._dims(names[0])) == 2
        return is_plain and self.graph.constants.keys() >= set(names)

    def _is_biased(self, node: onnx.NodeProto, place: Place) -> bool:
        """Say whether a node adds a constant that differs from channel to channel."""
        constants = [name for name in node.input if name in self.graph.constants]
        if node.op_type != "Add" or len(constants) != 1:
            return False
        dims = self._dims(constants[0])
        axis = place.axis - place.rank + len(dims)
        return len(dims) <= place.rank and axis >= 0 and dims[axis] != 1

    def _dims(self, name: str) -> tuple[int, ...]:
        return tuple(self.graph.constants[name].dims) if name in self.graph.constants else ()

    def _replace(self, node: onnx.NodeProto, position: int, array: np.ndarray) -> None:
        name = node.input[position]
        node.input[position] = self.graph.add(
            f"{name}_scaled", array.astype(self.graph.array(name).dtype)
        )


def balance(absmax: np.ndarray, weight_absmax: np.ndarray, strength: float) -> np.ndarray:
    """Return factors that make channels more alike when divided, weights less when multiplied.

    Args:
        absmax: Largest magnitude of each channel, float (channels,).
        weight_absmax: Largest magnitude it is weighed with, float (channels,).
        strength: Share of the channels' differences that goes to the weights, in [0, 1].

    Returns:
        Powers of two, float32 (channels,), 1 for channels that are zero or weighed with zero.

    Source: SmoothQuant (arXiv 2211.10438), equation 4.
    """
    is_used = (absmax > 0) & (weight_absmax > 0)
    if not is_used.any():
        return np.ones(len(absmax), np.float32)
    activations, weights = (
        np.log2(np.maximum(each[is_used], _FAINTEST * each.max()))
        for each in (absmax.astype(np.float64), weight_absmax.astype(np.float64))
    )
    exponents = strength * activations - (1 - strength) * weights
    factors = np.ones(len(is_used), np.float32)
    factors[is_used] = 2.0 ** np.rint(exponents - exponents.mean())
    return factors


def _joined(absmax: Iterable[np.ndarray]) -> np.ndarray:
    """Return which share of its tensor's peak each channel reaches in any of several tensors."""
    return np.max([each / (each.max() or 1) for each in absmax], axis=0)


def _made_axis(node: onnx.NodeProto, place: Place, rank: int) -> int:
    """Return the axis of a source's constant, of `rank` axes, along which the channels lie."""
    if node.op_type == "Add":
        return place.axis - place.rank + rank
    return rank - 1 if node.op_type == "MatMul" else 0
