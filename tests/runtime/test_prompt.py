"""Prompts hold words; strings become prompts."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import PromptError
from saymask.runtime.prompt import Prompt, prompts_from, words_of


def test_one_or_several():
    assert prompts_from("mug") == (Prompt("mug"),)
    assert prompts_from(Prompt("mug")) == (Prompt("mug"),)
    assert prompts_from(["mug", Prompt("lamp")]) == (Prompt("mug"), Prompt("lamp"))
    assert prompts_from(np.array(["mug"])) == (Prompt("mug"),)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_words_are_needed(text):
    with pytest.raises(PromptError, match="must hold words"):
        prompts_from(["mug", text])


def test_half_a_character_is_no_text():
    with pytest.raises(PromptError, match="UTF-8 can hold.*decode its bytes"):
        prompts_from(["the red mug \udce9"])


def test_text_is_needed():
    with pytest.raises(PromptError, match="must be str; got int"):
        prompts_from([3])  # type: ignore[list-item]


def test_a_prompt_is_needed():
    with pytest.raises(PromptError, match="at least one prompt"):
        prompts_from([])


def test_words_alone():
    assert words_of([Prompt("mug"), Prompt("lamp")], "evf-sam") == ("mug", "lamp")
    for prompt in (Prompt("it", references=(1,)), Prompt("it", history=("mug",))):
        with pytest.raises(PromptError, match="sam4mllm reads words alone; .* 'it'; leave them"):
            words_of([Prompt("mug"), prompt], "sam4mllm")
