"""One bundle as several contenders: the same files under other settings of its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..runtime.bundle import Bundle
from ..runtime.errors import UnknownNameError, UsageError
from ..runtime.segmenter import Segmenter
from ..runtime.systems import open_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What is scored."""

    name: str
    """The bundle's folder, and what was set."""
    bundle: Bundle
    """The bundle under its settings."""

    def open(self, *, device: str, threads: int | None) -> Segmenter:
        """Open its engines; see `Segmenter.open`."""
        return Segmenter(self.bundle, open_system(self.bundle, device=device, threads=threads))


def settings_from_text(text: str) -> dict[str, str]:
    """Read settings such as "keep_yes=0.8,keep_no=0.8"; none of an empty text.

    Raises:
        UsageError: It is written otherwise.
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and sign and value for name, sign, value in pairs):
        raise UsageError(f"settings must be NAME=VALUE, with commas between; got {text!r}")
    return {name: value for name, _, value in pairs}


def contender(bundle: Bundle, changes: Mapping[str, str]) -> Contender:
    """Return a bundle under changed settings.

    Raises:
        UnknownNameError: The bundle has no such setting.
    """
    settings = dict(bundle.manifest.settings)
    for name in changes:
        if name not in settings:
            raise UnknownNameError(f"a setting of {bundle.folder.name}", name, settings)
    manifest = replace(bundle.manifest, settings=tuple({**settings, **changes}.items()))
    said = ",".join(f"{name}={value}" for name, value in changes.items())
    return Contender(
        name=f"{bundle.folder.name} {said}".strip(), bundle=replace(bundle, manifest=manifest)
    )
