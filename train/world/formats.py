"""The tabletop world written out as the papers' data sets, to test the readers of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ...runtime.errors import OutputError, UnknownNameError, UsageError
from ...runtime.replace import replacing
from .catalogue import SPLITS
from .pages import Page, draw_pages
from .writer_coco import write_coco
from .writer_mmr import write_mmr
from .writer_mrseg import write_mrseg
from .writer_reasonseg import write_reasonseg
from .writer_refer import write_grefcoco, write_refcoco

Writer = Callable[[Path, str, Iterable[Page]], int]
"""(folder to fill, split, pages) -> number of records: phrases, or masks where nothing is said."""

FORMATS: dict[str, Writer] = {
    "coco": write_coco,
    "refcoco": write_refcoco,
    "grefcoco": write_grefcoco,
    "reasonseg": write_reasonseg,
    "mmr": write_mmr,
    "mrseg": write_mrseg,
}
"""Name of a format -> its writer."""


def write_dataset(
    name: str,
    folder: Path,
    split: str,
    count: int,
    size_hw: tuple[int, int],
    seed: int,
    *,
    on_page: Callable[[], None] = lambda: None,
) -> int:
    """Write pictures with their annotations, all or nothing.

    Args:
        name: Key of `FORMATS`.
        folder: What to create; it must not exist yet or be empty.
        split: "train", "val" or "test".
        count: How many pictures, at least 1.
        size_hw: Height and width of the pictures in pixels.
        seed: Seed of the first scene; the next ones count up from it.
        on_page: Called when a picture is done.

    Returns:
        The number of records: phrases, or masks in a format without phrases.

    Raises:
        UnknownNameError: The format or the split is not in its table.
        UsageError: `count` is below 1.
        OutputError: `folder` already holds something.
    """
    if name not in FORMATS:
        raise UnknownNameError("the format", name, FORMATS)
    if split not in SPLITS:
        raise UnknownNameError("the split", split, SPLITS)
    if count < 1:
        raise UsageError(f"`count` must be at least 1, got {count}; ask for more pictures")
    require_vacant(folder)
    with replacing(folder) as scratch:
        pages = draw_pages(split, count, size_hw, seed)
        return FORMATS[name](scratch, split, _watched(pages, on_page))


def require_vacant(folder: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        OutputError: `folder` is a file or holds something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputError(
            f"the output folder must not exist yet or be empty; {folder} already holds something; "
            "choose another or remove it first"
        )


def _watched(pages: Iterator[Page], on_page: Callable[[], None]) -> Iterator[Page]:
    for page in pages:
        yield page
        on_page()
