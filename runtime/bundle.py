"""A bundle: the folder that holds a system's graphs, its words and all that is known of them."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import numpy as np

from .errors import BundleError, OutputError
from .manifest import manifest_from_text, text_from_manifest
from .replace import replacing
from .spec import Manifest, StageSpec, ViewSpec

__all__ = ["Bundle"]

_MANIFEST = "bundle.json"
_GOLDEN = "golden.npz"
_BLOCK_BYTES = 1 << 20
_Spec = TypeVar("_Spec", StageSpec, ViewSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose files were found complete and unaltered."""

    folder: Path
    """Absolute path of the bundle."""
    manifest: Manifest
    """All of its `bundle.json`."""

    @classmethod
    def read(cls, folder: str | Path) -> Bundle:
        """Read a bundle and compare every file with its SHA-256.

        Raises:
            BundleError: A file is missing or altered, or the manifest is not one of ours.
        """
        folder = Path(folder).resolve()
        path = folder / _MANIFEST
        if not path.is_file():
            raise BundleError(f"a bundle must hold {_MANIFEST}; {folder} does not; export it again")
        try:
            manifest = manifest_from_text(path.read_text("utf-8"), origin=str(path))
            _check_listed(manifest, origin=str(path))
            for name, sha256 in manifest.files:
                _check_file(folder / name, sha256)
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{folder} must be readable; {error}; export it again") from error
        return cls(folder=folder, manifest=manifest)

    @classmethod
    def write(
        cls,
        folder: str | Path,
        manifest: Manifest,
        files: Mapping[str, bytes | Path],
        golden: Mapping[str, np.ndarray],
    ) -> Bundle:
        """Write a bundle in one step: killed at any moment, it leaves the old one or none.

        Args:
            folder: Where it goes; a bundle that is there already is replaced, its engine cache
                included, and anything else is refused.
            manifest: What `bundle.json` says; its `files` are filled in here.
            files: Content, or a file or folder to copy, by path inside the bundle with forward
                slashes.
            golden: Arrays of `golden.npz`, see `golden`.

        Raises:
            BundleError: A file that the manifest names is not in `files`.
            OutputError: The folder cannot be written or holds something else.
        """
        folder = Path(folder).resolve()
        npz = io.BytesIO()
        np.savez(npz, **{name: np.asarray(array) for name, array in golden.items()})  # type: ignore[arg-type]
        contents = {**dict(_single_files(files)), _GOLDEN: npz.getvalue()}
        cls.check_target(folder)
        try:
            with replacing(folder) as partial:
                sums = [(name, _copy(contents[name], partial / name)) for name in sorted(contents)]
                manifest = replace(manifest, files=tuple(sums))
                _check_listed(manifest, origin="the new bundle")
                _copy(text_from_manifest(manifest).encode(), partial / _MANIFEST)
        except OSError as error:
            raise _unwritable(folder, error) from error
        return cls(folder=folder, manifest=manifest)

    @staticmethod
    def check_target(folder: str | Path) -> None:
        """Find out before hours of work whether a bundle could be written to `folder`.

        Raises:
            OutputError: It holds something else than a bundle, or its parent cannot be written.
        """
        folder = Path(folder).resolve()
        is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if not is_empty and not (folder / _MANIFEST).is_file():
            raise OutputError(
                f"a bundle may replace only another bundle; {folder} is something else; "
                "name a folder that does not exist"
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder.parent):
                pass
        except OSError as error:
            raise _unwritable(folder, error) from error

    def stage(self, name: str) -> StageSpec:
        """Find a stage by name, or raise a BundleError that lists the stages there are."""
        return _named(name, self.manifest.stages, f"a stage of {self.folder}")

    def view(self, name: str) -> ViewSpec:
        """Find a view by name, or raise a BundleError that lists the views there are."""
        return _named(name, self.manifest.views, f"a view of {self.folder}")

    def golden(self) -> dict[str, np.ndarray]:
        """Read the example that `saymask check` replays.

        Returns:
            "frame" (H, W, 3) uint8 RGB, "phrases" (N,) text, and "STAGE/TENSOR" for each input
            and FP32 output, as the stage's spec describes it.
        """
        with np.load(self.folder / _GOLDEN) as arrays:
            return dict(arrays)


def _named(name: str, specs: tuple[_Spec, ...], what: str) -> _Spec:
    for spec in specs:
        if spec.name == name:
            return spec
    names = ", ".join(spec.name for spec in specs) or "none"
    raise BundleError(f"{what} must be named {name!r}; it has {names}; export the bundle again")


def _check_listed(manifest: Manifest, *, origin: str) -> None:
    """Refuse a manifest that names files it does not list, or lists files outside the bundle."""
    paths = [PurePosixPath(name) for name, _ in manifest.files]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"{origin}: files must lie inside the bundle; got {str(path)!r}")
    # A folder is listed by what is in it.
    listed = {str(each) for path in paths for each in (path, *path.parents)}
    vocabulary = [manifest.tokenizer.file] if manifest.tokenizer else []
    for name in [*(stage.file for stage in manifest.stages), *vocabulary, _GOLDEN]:
        if name not in listed:
            found = ", ".join(sorted(name for name, _ in manifest.files))
            raise BundleError(
                f"{origin}: files must list {name!r}; it lists {found}; export the bundle again"
            )


def _single_files(files: Mapping[str, bytes | Path]) -> Iterator[tuple[str, bytes | Path]]:
    """Name every file by itself, those in folders too."""
    for name, content in files.items():
        if isinstance(content, Path) and content.is_dir():
            for path in filter(Path.is_file, content.rglob("*")):
                yield f"{name}/{path.relative_to(content).as_posix()}", path
        else:
            yield name, content


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise BundleError(f"the bundle must hold {path}, which is missing; export it again")
    with path.open("rb") as file:
        found = _sha256(file)
    if found != sha256:
        raise BundleError(
            f"{path} must have SHA-256 {sha256}; got {found}: it is damaged or was edited; "
            "export the bundle again"
        )


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the bundle must be written to {folder}, which failed: {error}; "
        "check the path, its rights and the free space"
    )


def _copy(content: bytes | Path, path: Path) -> str:
    """Write content to a new file and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
    with source, path.open("xb") as target:
        return _sha256(source, target)


def _sha256(source: BinaryIO, target: BinaryIO | None = None) -> str:
    """Read `source` to its end, copying it to `target` if there is one."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        if target:
            target.write(block)
    return digest.hexdigest()
