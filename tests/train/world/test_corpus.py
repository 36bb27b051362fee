from __future__ import annotations

from saymask.train.world.catalogue import CATEGORIES, COLORS
from saymask.train.world.corpus import vocabulary_corpus


def test_the_corpus_says_everything_in_single_lines() -> None:
    texts = list(vocabulary_corpus(texts=1500))
    assert len(texts) == 1500
    assert all(text and "\n" not in text for text in texts)
    words = {word.strip("?.,:") for text in texts for word in text.split()}
    assert words >= {*CATEGORIES, *COLORS, "[semantic]", "<mask-ref>", "{seg}", "instance"}


def test_the_corpus_repeats_and_splits_differ() -> None:
    first, again, val = (
        list(vocabulary_corpus(split=split, texts=60)) for split in ("train", "train", "val")
    )
    assert first == again
    assert first != val
