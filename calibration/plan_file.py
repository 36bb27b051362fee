"""A plan as a file: what every weighted node computes in and why, for a person to read and edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ..runtime.errors import InputError, UnknownNameError
from ..runtime.spec import PLAN_VERSION
from .graph import Graph
from .plan import FLOATS, WEIGHTED_OPS, NodePlan, obstacle

__all__ = [
    "PRECISIONS",
    "Plan",
    "StagePlan",
    "check_plan",
    "check_wanted",
    "model_sha256",
    "plan_from_text",
    "read_plan",
    "text_from_plan",
]

_FOR_TENSORRT = ("fp32", "fp16", "int8", "fp8", "int8-weights", "int4-weights")
PRECISIONS = {
    "cpu": ("fp32", "int8-static", "int8-dynamic"),
    "openvino": ("fp32", "int8-static"),
    "rtx": _FOR_TENSORRT,
    "tensorrt": _FOR_TENSORRT,
}
"""What a node may compute in on each target, if the right precision is asked for."""
_FOR_PRODUCTS = {
    "int8-dynamic": "dynamic scales",
    "int8-weights": "small weights alone",
    "int4-weights": "small weights alone",
}

_NAMED = 3
"""Most nodes that an error lists."""
_EDIT = "correct it, or export without --plan and edit the plan.json of that bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The nodes of one stage."""

    graph_sha256: str
    """`model_sha256` of the FP32 graph that the names belong to."""
    nodes: Mapping[str, NodePlan]
    """Node name -> precision and reason, in the graph's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The stages of one system."""

    system: str
    """Key of `runtime.systems.SYSTEMS`."""
    variant: str
    """Size of the networks, for example "mini"."""
    target: str
    """Key of `PRECISIONS`."""
    stages: Mapping[str, StagePlan]
    """By name, in the order they run; a stage that is missing computes in FP32."""


def model_sha256(model: onnx.ModelProto) -> str:
    """Return what tells a graph with its weights from others, in hexadecimal.

    Names, operators and weights count, but not what an exporter noted beside them or where the
    weights are stored.
    """
    graph = Graph(model)
    digest = hashlib.sha256()
    for value in (*model.graph.input, *model.graph.output):
        digest.update(value.name.encode() + value.type.SerializeToString(deterministic=True))
    for message in (*graph.nodes, *model.opset_import):
        digest.update(message.SerializeToString(deterministic=True))
    for name in sorted(graph.constants):
        array = graph.array(name)
        digest.update(repr((name, array.dtype.name, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def text_from_plan(plan: Plan) -> str:
    """Write a plan as JSON."""
    data = {"plan_version": PLAN_VERSION, **asdict(plan)}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def plan_from_text(text: str, *, origin: str) -> Plan:
    """Read what `text_from_plan` wrote or a person edited.

    Args:
        text: Content of the file.
        origin: Where it was read, for messages.

    Raises:
        InputError: It is not JSON, of another version, or something in it is missing, unknown or
            of another type.
        UnknownNameError: There is no such target.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InputError(f"{origin} must be a plan in JSON; {error}; {_EDIT}") from error
    version = data.get("plan_version") if isinstance(data, dict) else None
    if version != PLAN_VERSION:
        raise InputError(
            f"{origin} must have plan_version {PLAN_VERSION}, which this saymask reads; got "
            f"{version!r}; export without --plan to get one"
        )
    head = _fields(
        data,
        {"plan_version": int, "system": str, "variant": str, "target": str, "stages": dict},
        origin,
    )
    if head["target"] not in PRECISIONS:
        raise UnknownNameError(f"the target of {origin}", head["target"], PRECISIONS)
    stages = {
        name: _stage(stage, f"{origin}: stage {name!r}") for name, stage in head["stages"].items()
    }
    return Plan(
        system=head["system"], variant=head["variant"], target=head["target"], stages=stages
    )


def read_plan(path: Path) -> Plan:
    """Read a plan file; see `plan_from_text`.

    Raises:
        InputError: It cannot be read, too.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"a plan must be a readable file; {path} is not: {error}; name the plan.json of a "
            "bundle or a copy of it"
        ) from error
    return plan_from_text(text, origin=str(path))


def check_wanted(
    plan: Plan, *, system: str, variant: str, target: str, precisions: Collection[str]
) -> None:
    """Refuse a plan that is not for what is asked, whatever the graphs are.

    Args:
        plan: From `read_plan`.
        system: System of the graphs.
        variant: Size of their networks.
        target: Key of `PRECISIONS`.
        precisions: What nodes can be given there, see `quantize.node_precisions`.

    Raises:
        InputError: It is for another system, variant or target, or gives a node another precision.
    """
    made_for = {"system": plan.system, "variant": plan.variant, "target": plan.target}
    wanted = {"system": system, "variant": variant, "target": target}
    for part, value in wanted.items():
        if made_for[part] != value:
            raise InputError(
                f"the plan must be for the {part} {value}; it is for {made_for[part]}; export "
                "without --plan to get one"
            )
    given = [
        f"{node} of stage {name!r} {each.precision!r}"
        for name, stage in plan.stages.items()
        for node, each in stage.nodes.items()
        if each.precision not in precisions
    ]
    if given:
        more = f" and {len(given) - _NAMED} more such" if len(given) > _NAMED else ""
        raise InputError(
            "the plan must give each node a precision that the one asked for has on "
            f"{target}: {', '.join(precisions)}; got {', '.join(given[:_NAMED])}{more}; ask for "
            f"the precision that the plan was made for; or {_EDIT}"
        )


def check_plan(plan: Plan, models: Mapping[str, onnx.ModelProto]) -> None:
    """Refuse a plan that is not one for these graphs; see `check_wanted` for the rest.

    Args:
        plan: From `read_plan`.
        models: Stage name -> FP32 graph after the passes that precede planning.

    Raises:
        InputError: It is for other graphs, names nodes that there are not, or quantizes one that
            cannot be.
    """
    _refuse("stages", set(plan.stages) - set(models), f"the system's are {', '.join(models)}")
    for name, stage in plan.stages.items():
        _check_stage(name, stage, models[name])


def _check_stage(name: str, stage: StagePlan, model: onnx.ModelProto) -> None:
    found = model_sha256(model)
    if stage.graph_sha256 != found:
        raise InputError(
            f"the plan of stage {name!r} must be for this graph with these weights, whose "
            f"graph_sha256 is {found}; it is for {stage.graph_sha256}; export without --plan to "
            "measure a new one, or write that hash into the file if the plan shall hold as it is"
        )
    graph = Graph(model)
    nodes = {node.name: node for node in graph.nodes if node.op_type in WEIGHTED_OPS}
    _refuse(f"nodes of stage {name!r}", set(stage.nodes) - set(nodes), f"it has {', '.join(nodes)}")
    for node, each in stage.nodes.items():
        objection = each.precision not in FLOATS and _objection(graph, nodes[node], each.precision)
        if objection:
            raise InputError(
                f"the plan must give each node what it can compute in; stage {name!r} gives "
                f"{node} {each.precision!r}: {objection}; {_EDIT}"
            )


def _objection(graph: Graph, node: onnx.NodeProto, precision: str) -> str:
    if precision in _FOR_PRODUCTS and node.op_type != "MatMul":
        return f"{_FOR_PRODUCTS[precision]} are for products, and it is {node.op_type}"
    return obstacle(graph, node)


def _refuse(what: str, names: Iterable[str], instead: str) -> None:
    listed = sorted(names)
    if listed:
        raise InputError(
            f"the plan must name {what} that there are; got {', '.join(listed)}; {instead}; {_EDIT}"
        )


def _stage(data: Any, where: str) -> StagePlan:
    fields = _fields(data, {"graph_sha256": str, "nodes": dict}, where)
    nodes = {
        name: NodePlan(**_fields(node, {"precision": str, "reason": str}, f"{where}: node {name}"))
        for name, node in fields["nodes"].items()
    }
    return StagePlan(graph_sha256=fields["graph_sha256"], nodes=nodes)


def _fields(data: Any, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """Return the fields of an object of JSON, each of its type, and no other."""
    if not isinstance(data, dict) or {name: type(each) for name, each in data.items()} != kinds:
        wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        found = ", ".join(data) or "nothing" if isinstance(data, dict) else repr(data)
        raise InputError(f"{where} must have the fields {wanted}; got {found}; {_EDIT}")
    return data
