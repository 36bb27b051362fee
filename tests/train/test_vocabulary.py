import pytest

from saymask.runtime.tokenizer import XlmRoberta
from saymask.train.vocabulary import learn_sentencepiece

ROWS = 512


@pytest.fixture(scope="module")
def model(cache) -> bytes:
    return learn_sentencepiece(cache.phrases.texts, rows=ROWS)


def test_ids_fit_the_embedding_and_every_word_is_known(model, cache, tmp_path):
    (tmp_path / "words.model").write_bytes(model)
    ids = XlmRoberta(tmp_path / "words.model", 64).batch(cache.phrases.texts)
    assert ids.max() < ROWS
    assert not (ids == XlmRoberta.UNKNOWN).any()
    assert (ids[:, 0] == XlmRoberta.BEGIN).all()


def test_the_same_texts_give_the_same_vocabulary(model, cache):
    assert learn_sentencepiece(cache.phrases.texts, rows=ROWS) == model
