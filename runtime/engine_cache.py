"""Compiled engines beside a bundle's graphs: what each was built for, and whether it fits here."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import machine
from .errors import DeviceError, EngineError
from .spec import StageSpec

__all__ = [
    "ENGINES",
    "LEAST_SM",
    "TARGETS",
    "DeviceKey",
    "EngineReport",
    "LayerCount",
    "ShapeRange",
    "Share",
    "build_command",
    "device_key",
    "find_engine",
    "graph_sha256",
    "read_reports",
    "rebuild_command",
    "served_sm",
    "write_report",
]

ENGINES = "engines"
"""Folder of the cache inside a bundle; each device key has a folder in it."""
TARGETS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""Values of `saymask build --target`, which name an extra too, and the library of each."""
LEAST_SM = 80
"""TensorRT-RTX compiles for this and all later ones that it knows, unless one is named."""

_CUDA_MAJORS = ("13", "12", "11")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """What an engine is bound to; it runs where every part is the same."""

    sm: tuple[int, ...]
    """Compute capabilities it was compiled for, ascending, times ten: 89 is 8.9."""
    library: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    """Full version of the library."""
    cuda: str
    """CUDA release that the library's package is for, or "system" where the system brought it."""
    os: str
    """System and processor, for example "linux-x86_64"."""

    @property
    def folder(self) -> str:
        """Name of its folder in the cache."""
        sm = "+".join(map(str, self.sm))
        return f"{self.library}-{self.version}-sm{sm}-cuda{self.cuda}-{self.os}"

    def objections(self, here: DeviceKey) -> list[str]:
        """Say part by part why it doesn't run where `here`, of one compute capability, holds."""
        found = [
            f"{part} must be {getattr(self, part)}; got {getattr(here, part)}"
            for part in ("library", "version", "cuda", "os")
            if getattr(self, part) != getattr(here, part)
        ]
        if not set(here.sm) <= set(self.sm):
            built, real = (", ".join(map(str, key.sm)) for key in (self, here))
            found.append(f"sm must be one of {built}; got {real}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCount:
    """Layers of one type and precision."""

    kind: str
    """Operator of the graph, or layer type of the engine."""
    precision: str
    """"fp32", "fp16", "int8", ..., joined by "+" where a layer reads and writes several."""
    count: int
    """How many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The products and convolutions of a stage that are computed in one precision."""

    precision: str
    """"int8", "fp32", ..., by the kernels that run, not by the plan; "unknown" where those don't
    tell."""
    nodes: int
    """How many."""
    multiply_adds: int
    """What they compute in one run."""
    share: float
    """Of all multiply-adds of the stage, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Shapes of one input that an engine takes."""

    input: str
    """Name of the input."""
    least: tuple[int, ...]
    """Smallest extents."""
    usual: tuple[int, ...]
    """Extents that the engine is tuned for."""
    most: tuple[int, ...]
    """Largest extents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What was asked of one engine and what was built; the JSON beside the engine."""

    stage: str
    """Name of the stage."""
    key: DeviceKey
    """Where it runs."""
    precision: str
    """What was asked for: "fp32" or "fp16"."""
    phrases: int | None
    """Most phrases of one run that were asked for; None where an older saymask wrote the report."""
    graph_sha256: str
    """Of the stage's graph, see `graph_sha256`; with another graph the engine is stale."""
    engine_sha256: str
    """Of the engine's file."""
    engine_bytes: int
    """Size of the engine's file."""
    shapes: tuple[ShapeRange, ...]
    """One for each input of the stage."""
    asked: tuple[LayerCount, ...]
    """Operators of the graph that was compiled."""
    built: tuple[LayerCount, ...]
    """Layers of the engine, as the compiler states them."""
    shares: tuple[Share, ...]
    """What those layers compute in, the most first; empty where an older saymask wrote the report.
    """
    seconds: float
    """How long it took to compile."""
    peak_memory_bytes: int | None
    """Most host memory that the compiling process held; None where the system doesn't tell."""


def build_command(
    folder: Path,
    library: str,
    *,
    precision: str = "fp32",
    phrases: int | None = None,
    device_sm: int | None = None,
) -> str:
    """Return the command that compiles the bundle in `folder` for `library`, as a shell reads it.

    Args:
        folder: The bundle.
        library: "tensorrt" or "tensorrt_rtx".
        precision: "fp32" or "fp16".
        phrases: Most phrases of one run; None leaves it to the verb.
        device_sm: Compute capability times ten to compile for alone; None leaves it to the verb.
    """
    target = next(target for target, name in TARGETS.items() if name == library)
    words = ["saymask", "build", str(folder), "--target", target]
    words += ["--fp16"] * (precision == "fp16")
    words += [] if device_sm is None else ["--device-sm", str(device_sm)]
    words += [] if phrases is None else ["--phrases", str(phrases)]
    return shlex.join(words)


def rebuild_command(folder: Path, report: EngineReport) -> str:
    """Return the command that compiled an engine of the bundle in `folder`, with all its flags."""
    (sm, *others), library = report.key.sm, report.key.library
    # TensorRT compiles for the GPU that is there, TensorRT-RTX for one only where it is named.
    is_named = library == "tensorrt_rtx" and not others
    return build_command(
        folder,
        library,
        precision=report.precision,
        phrases=report.phrases,
        device_sm=sm if is_named else None,
    )


def served_sm(library: Any) -> tuple[int, ...] | None:
    """List the compute capabilities, times ten, that an imported TensorRT-RTX compiles for.

    None where the library doesn't tell: TensorRT takes the GPU that is there or refuses to compile.
    """
    known = getattr(library, "ComputeCapability", None)
    if library.__name__ != "tensorrt_rtx" or known is None:
        return None
    numbers = [name[2:] for name in dir(known) if name.startswith("SM")]
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))


def device_key(library: str, library_version: str, sm: tuple[int, ...]) -> DeviceKey:
    """Return the key of engines that this machine's `library` compiles or runs for `sm`."""
    return DeviceKey(
        sm=tuple(sorted(sm)),
        library=library,
        version=library_version,
        cuda=_cuda_of(library),
        os=f"{platform.system()}-{platform.machine()}".lower(),
    )


def find_engine(
    bundle: Path,
    graph: Path,
    stage: StageSpec,
    *,
    library: str,
    library_version: str,
    index: int,
    served: Sequence[int] | None = None,
) -> tuple[Path, EngineReport]:
    """Find the engine of a stage that fits CUDA device `index`; nothing is loaded for it.

    Args:
        bundle: Folder of the bundle.
        graph: The stage's ONNX graph.
        stage: The stage.
        library: "tensorrt" or "tensorrt_rtx".
        library_version: Its version here.
        index: Number of the CUDA device.
        served: What `served_sm` says of it.

    Raises:
        DeviceError: There is no such device, or the engines were built for other ones.
        EngineError: There is no engine, or it is stale or damaged.
    """
    reports = [
        (path, report)
        for path, report in read_reports(bundle)
        if report.stage == stage.name and report.key.library == library
    ]
    devices = machine.cuda_devices()
    if index >= len(devices):
        command = (
            rebuild_command(bundle, reports[0][1]) if reports else build_command(bundle, library)
        )
        raise DeviceError(
            f"an engine of {library} runs on a CUDA device; cuda:{index} was asked for and this "
            f"machine has {len(devices)}; run it where there is one, see: saymask doctor; "
            f"engines are built with: {command}"
        )
    sm = int(devices[index].capability.replace(".", ""))
    here = device_key(library, library_version, (sm,))
    if not reports:
        raise EngineError(
            f"stage {stage.name!r} must have an engine of {library} in {bundle / ENGINES}; "
            f"there is none; {_cure(bundle, here, served, None)}"
        )
    path, report = min(reports, key=lambda pair: len(pair[1].key.objections(here)))
    objections = "; ".join(report.key.objections(here))
    if objections:
        raise DeviceError(
            f"{path} does not fit this machine: {objections}; {_cure(bundle, here, served, report)}"
        )
    _check_engine(path, graph, report, rebuild_command(bundle, report))
    return path, report


def _cure(
    bundle: Path, here: DeviceKey, served: Sequence[int] | None, report: EngineReport | None
) -> str:
    """Say what gives this machine an engine like that of `report`, which doesn't fit it."""
    (sm,) = here.sm
    precision, phrases = (report.precision, report.phrases) if report else ("fp32", None)
    if served is not None and sm not in served:
        instead = build_command(bundle, "tensorrt", precision=precision, phrases=phrases)
        return (
            f"sm {sm} is not served by this library: {here.library} {here.version} compiles for "
            f"{', '.join(map(str, served))}; run on that GPU: {instead}"
        )
    built = (
        report.key.sm if report else tuple(number for number in served or () if number >= LEAST_SM)
    )
    is_named = here.library == "tensorrt_rtx" and (len(built) == 1 or sm not in built)
    command = build_command(
        bundle,
        here.library,
        precision=precision,
        phrases=phrases,
        device_sm=sm if is_named else None,
    )
    return f"run: {command}"


def read_reports(bundle: Path) -> Iterator[tuple[Path, EngineReport]]:
    """Read the reports of all engines of a bundle as pairs of an engine's path and its report.

    Raises:
        EngineError: A report is not one of ours.
    """
    for path in sorted((bundle / ENGINES).glob("[!.]*/*.json")):
        try:
            data = json.loads(path.read_text("utf-8"))
            yield path.with_suffix(".engine"), _report(data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EngineError(
                f"{path} must be the report of an engine; {error!r}; "
                f"delete {path.parent} and run: {_command_of(bundle, path.parent)}"
            ) from error


def write_report(folder: Path, report: EngineReport) -> None:
    """Write a report beside its engine in `folder`."""
    text = json.dumps(asdict(report), indent=2, allow_nan=False)
    (folder / f"{report.stage}.json").write_text(text + "\n", "utf-8")


def graph_sha256(graph: Path) -> str:
    """Return the SHA-256 of a graph and of the weights beside it (`NAME.onnx.data`)."""
    digest = hashlib.sha256()
    for path in (graph, graph.with_name(f"{graph.name}.data")):
        if path.exists():
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def _check_engine(path: Path, graph: Path, report: EngineReport, rebuild: str) -> None:
    if graph_sha256(graph) != report.graph_sha256:
        raise EngineError(
            f"{path} must be compiled from {graph}; it is stale: the graph has changed since; "
            f"run: {rebuild}"
        )
    found_bytes = path.stat().st_size if path.is_file() else 0
    if found_bytes != report.engine_bytes or graph_sha256(path) != report.engine_sha256:
        raise EngineError(
            f"{path} must have {report.engine_bytes} bytes with SHA-256 {report.engine_sha256}; "
            f"it is damaged: {found_bytes} bytes; run: {rebuild}"
        )


def _command_of(bundle: Path, folder: Path) -> str:
    """Return the command that compiled the engines in a folder, as far as its name tells."""
    named = re.match(r"(tensorrt(?:_rtx)?)-.*-sm([\d+]+)-cuda", folder.name)
    library, sm = named.groups() if named else ("tensorrt_rtx", "")
    is_one = library == "tensorrt_rtx" and sm.isdecimal()
    return build_command(bundle, library, device_sm=int(sm) if is_one else None)


def _cuda_of(library: str) -> str:
    # Needed where engines are alone; it would cost every start milliseconds.
    from importlib.metadata import PackageNotFoundError, version

    for major in _CUDA_MAJORS:
        try:
            version(f"{library}_cu{major}")
        except PackageNotFoundError:
            continue
        return major
    return "system"


def _report(data: dict[str, Any]) -> EngineReport:
    key = DeviceKey(**{**data["key"], "sm": tuple(data["key"]["sm"])})
    shapes = tuple(
        ShapeRange(
            input=row["input"], **{end: tuple(row[end]) for end in ("least", "usual", "most")}
        )
        for row in data["shapes"]
    )
    asked, built = (tuple(LayerCount(**row) for row in data[side]) for side in ("asked", "built"))
    shares = tuple(Share(**row) for row in data.get("shares", ()))
    values = {"key": key, "shapes": shapes, "asked": asked, "built": built, "shares": shares}
    return EngineReport(**{"phrases": None, **data, **values})
