from __future__ import annotations

import pytest

from saymask.runtime.errors import PromptError
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.prompt import Prompt


def test_what_is_posted_is_read_with_its_revision() -> None:
    board = PromptBoard("the red mug")
    assert board.read() == (0, (Prompt("the red mug"),))
    assert board.post(["the knife", "the lamp"]) == 1
    assert board.read() == (1, (Prompt("the knife"), Prompt("the lamp")))


def test_a_prompt_without_words_leaves_the_old_ones() -> None:
    board = PromptBoard("the red mug")
    with pytest.raises(PromptError, match="must hold words"):
        board.post(["the knife", "  "])
    assert board.read() == (0, (Prompt("the red mug"),))
