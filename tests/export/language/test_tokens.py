from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saymask.export.language.tokens import Added, added_token, read_added, read_json
from saymask.runtime.errors import CheckpointError
from saymask.runtime.language.gguf_file import TokenKind


def _write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_newer_files_say_more_of_an_added_token(tmp_path: Path) -> None:
    entry = {"content": "[SEG]", "special": True}
    folder = _write(
        tmp_path,
        added_tokens={"[SEG]": 400, "[REF]": 401},
        tokenizer_config={"added_tokens_decoder": {"400": entry}},
        tokenizer={"added_tokens": [{"id": 402, "content": "<box>", "special": False}]},
    )
    assert read_added(folder) == {
        400: Added(text="[SEG]", is_special=True),
        401: Added(text="[REF]", is_special=False),
        402: Added(text="<box>", is_special=False),
    }


def test_none_of_the_files_is_needed(tmp_path: Path) -> None:
    assert read_added(tmp_path) == {}


def test_special_tokens_become_controls() -> None:
    kinds = [added_token(Added(text="x", is_special=it)).kind for it in (True, False)]
    assert kinds == [TokenKind.CONTROL, TokenKind.USER_DEFINED]


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens": {"[SEG]": None}},
        {"tokenizer_config": {"added_tokens_decoder": {"400": {"special": True}}}},
        {"tokenizer": {"added_tokens": [{"content": "[SEG]"}]}},
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="must have ids and contents"):
        read_added(_write(tmp_path, **files))


def test_other_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a JSON object"):
        read_json(_write(tmp_path, list=[]) / "list.json")
