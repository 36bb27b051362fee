"""Where bundles are looked for: in ./ and in ./bundles/."""

from __future__ import annotations

from pathlib import Path

from .errors import BundleError

__all__ = ["find_bundle", "newest_bundle"]

_SHELF = Path("bundles")
_MANIFEST = "bundle.json"


def find_bundle(reference: str | Path) -> Path:
    """Find the folder of a bundle.

    Args:
        reference: The folder, or its name in ./ or ./bundles/.

    Raises:
        BundleError: There is no such folder.
    """
    places = dict.fromkeys((Path(reference), _SHELF / reference))
    for folder in places:
        if folder.is_dir():
            return folder
    raise BundleError(
        f"a bundle must be a folder; looked for {' and '.join(map(str, places))} in {Path.cwd()}; "
        "make one with: saymask export"
    )


def newest_bundle() -> Path:
    """Find the bundle in ./bundles/ that was written last.

    Raises:
        BundleError: There is none.
    """
    manifests = sorted(_SHELF.glob(f"[!.]*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
    if not manifests:
        raise BundleError(
            f"a bundle must be named, or lie in {_SHELF.resolve()}, which holds none; "
            "make one with: saymask export evf-sam --int8"
        )
    return manifests[-1].parent
