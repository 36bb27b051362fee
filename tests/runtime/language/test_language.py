"""Both backends read, write, branch, save and refuse alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from saymask.runtime import machine
from saymask.runtime.errors import DeviceError, EngineError, PromptError, UsageError
from saymask.runtime.language import LanguageEngine
from saymask.runtime.language.decoder import MAX_SEQUENCES
from saymask.runtime.language.sampling import Sampling

from .. import tiny_gguf
from ..tiny_gguf import REF, SEG, open_on, relative_error

BACKENDS = ("llamacpp", "reference")
WORDS = [1, 300, 280, 311, 296]
SUFFIXES = [[300], [301, 302, 303], [290, 1, 5, 398], [310, 311]]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return tiny_gguf.write(folder / "tiny.gguf", architecture=request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("models") / "llama.gguf")


@pytest.fixture(params=BACKENDS)
def engine(request: pytest.FixtureRequest, llama: Path) -> Iterator[LanguageEngine]:
    with open_on(request.param, llama) as engine:
        yield engine


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(9, 64)).astype(np.float32)


def _free(engine: LanguageEngine) -> int:
    return engine._cells.free


def test_backends_agree(model, vectors):
    """Hidden states and logits of interleaved parts, of a batch and of an answer."""
    found = []
    for backend in BACKENDS:
        with open_on(backend, model) as engine:
            prefix = engine.prefill([WORDS, vectors, [300, 301]], at=[0, 4, 5, 13, -1])
            batch = engine.extend(prefix, SUFFIXES, at=[0, -1], has_hidden=True)
            answer = engine.generate(prefix, stop=[], max_tokens=32, watch=[5, 6])
            arrays = [prefix.outputs.hidden, prefix.outputs.logits, answer.hidden, answer.watched]
            for outputs in batch:
                arrays += [outputs.hidden, outputs.logits]
            found.append((answer.tokens, arrays))
    (tokens, arrays), (expected_tokens, expected) = found
    assert tokens == expected_tokens
    assert len(tokens) == 32
    for array, other in zip(arrays, expected, strict=True):
        assert relative_error(array, other) < 1e-5


@pytest.mark.parametrize(("format", "most"), [("F16", 1e-3), ("Q8_0", 0.05)])
def test_stored_formats(tmp_path, format, most):
    """llama.cpp rounds the activations too where weights have eight bits."""
    path = tiny_gguf.write(tmp_path / "model.gguf", format=format)
    found, expected = (open_on(backend, path).prefill([WORDS]).last for backend in BACKENDS)
    assert relative_error(found.logits, expected.logits) < most


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_of_half_the_size(llama, backend):
    exact = open_on(backend, llama).prefill([WORDS]).last
    rounded = open_on(backend, llama, cache_dtype="float16").prefill([WORDS]).last
    assert 0 < relative_error(rounded.logits, exact.logits) < 5e-3


def test_parts_need_not_match_the_way_they_are_cut(engine):
    whole = engine.prefill([WORDS + SUFFIXES[1]], at=range(8))
    embedded = engine.prefill([engine.embeddings(WORDS), SUFFIXES[1]])
    with engine.prefill([WORDS]) as first:
        second = engine.prefill([SUFFIXES[1][:1], SUFFIXES[1][1:]], after=first)
        (batched,) = engine.extend(first, [SUFFIXES[1]], at=[0, 1, 2], has_hidden=True)
    assert whole.tokens == second.tokens == embedded.tokens == 8
    for found in (embedded.last, second.last, whole.outputs.take([7]), batched.take([2])):
        assert relative_error(found.hidden, whole.last.hidden) < 1e-5
        assert relative_error(found.logits, whole.last.logits) < 1e-5
    assert relative_error(batched.hidden, whole.outputs.hidden[5:]) < 1e-5


def test_positions_come_in_the_order_asked(engine, vectors):
    prefix = engine.prefill([vectors], at=[-1, 0, 3, 0])
    ordered = engine.prefill([vectors], at=range(9)).outputs
    assert relative_error(prefix.outputs.logits, ordered.logits[[8, 0, 3, 0]]) < 1e-5
    (backwards,) = engine.extend(prefix, [vectors], at=[-1, 2, 2])
    (forwards,) = engine.extend(prefix, [vectors], at=range(9))
    assert relative_error(backwards.logits, forwards.logits[[8, 2, 2]]) < 1e-5
    assert backwards.hidden is None
    assert engine.prefill([vectors]).outputs.hidden.shape == (0, 64)


@pytest.mark.parametrize("is_vectors", [False, True])
def test_suffixes_in_one_batch_are_as_if_alone(engine, vectors, is_vectors):
    suffixes = [vectors[:1], vectors[1:5], vectors[5:]] if is_vectors else SUFFIXES
    with engine.prefill([WORDS, vectors]) as prefix:
        together = engine.extend(prefix, suffixes, has_hidden=True)
        alone = [engine.prefill([WORDS, vectors, suffix]) for suffix in suffixes]
    for found, whole in zip(together, alone, strict=True):
        assert relative_error(found.hidden, whole.last.hidden) < 1e-5
        assert relative_error(found.logits, whole.last.logits) < 1e-5


def test_an_answer_is_what_reading_it_would_give(engine):
    with engine.prefill([WORDS]) as prefix:
        answer = engine.generate(prefix, stop=[], max_tokens=6, watch=[REF])
    with engine.prefill([[*WORDS, *answer.tokens]], at=range(4, 11)) as whole:
        assert answer.prefix.tokens == whole.tokens
        assert answer.tokens == tuple(whole.outputs.logits[:-1].argmax(-1))
        assert relative_error(answer.hidden, whole.outputs.hidden) < 1e-5
        likely = whole.outputs.logits.astype(np.float64)
        likely -= np.log(np.exp(likely).sum(-1, keepdims=True))
        chosen = likely[range(6), answer.tokens]
        np.testing.assert_allclose(answer.log_probabilities, chosen, rtol=1e-4)
        np.testing.assert_allclose(answer.watched[:, 0], likely[:-1, REF], rtol=1e-4)
        further = engine.generate(answer.prefix, stop=[], max_tokens=3).tokens
        assert further == engine.generate(whole, stop=[], max_tokens=3).tokens


def test_a_stop_token_ends_an_answer(engine):
    with engine.prefill([WORDS]) as prefix:
        whole = engine.generate(prefix, stop=[], max_tokens=8)
        ended = engine.generate(prefix, stop=[whole.tokens[3]], max_tokens=8)
        at_once = engine.generate(prefix, stop=[whole.tokens[0]], max_tokens=8)
    assert not whole.is_complete
    assert ended.is_complete
    assert ended.tokens == whole.tokens[: whole.tokens.index(whole.tokens[3])]
    assert (at_once.tokens, at_once.prefix.tokens) == ((), 5)
    assert at_once.hidden.shape == (1, 64)
    assert at_once.watched.shape == (0, 0)


def test_draws_repeat_with_their_seed(engine):
    def draw(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=2.0, top_p=0.9, seed=seed)
        with engine.prefill([WORDS]) as prefix:
            return engine.generate(prefix, stop=[], max_tokens=12, sampling=sampling).tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_conversation_goes_on_in_another_engine(llama, vectors, backend):
    with open_on(backend, llama) as first, first.prefill([WORDS]) as prefix:
        state = first.save(first.prefill([vectors], after=prefix))
        expected = first.prefill([WORDS, vectors, SUFFIXES[1]]).last
    with open_on(backend, llama, context_tokens=100) as second, second.restore(state) as restored:
        found = second.prefill([SUFFIXES[1]], after=restored)
        assert found.tokens == 17
        assert relative_error(found.last.logits, expected.logits) < 1e-5
        assert second.generate(restored, stop=[], max_tokens=3).tokens
        assert _free(second) == 100 - 17


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_foreign_state(llama, tmp_path, backend):
    with open_on(backend, llama) as engine, engine.prefill([WORDS]) as prefix:
        state = engine.save(prefix)
    other = tiny_gguf.write(tmp_path / "other.gguf", seed=1)
    with (
        open_on(backend, other) as engine,
        pytest.raises(EngineError, match="state must fit the engine; its model is"),
    ):
        engine.restore(state)
    with open_on(backend, llama, cache_dtype="float16") as engine:
        with pytest.raises(EngineError, match="its cache_dtype is 'float32'"):
            engine.restore(state)
        with pytest.raises(EngineError, match="must be what save returned"):
            engine.restore(state[:-100])
        assert _free(engine) == 256
    with (
        open_on(backend, llama, context_tokens=4) as engine,
        pytest.raises(PromptError, match="room for 5 more tokens; 4 of 4"),
    ):
        engine.restore(state)


def test_words(engine):
    text = "[SEG] the red mug[REF] é lamp</s>"
    ids = engine.tokens(text, special=True)
    assert ids[0] == SEG
    assert ids[-1] == engine.spec.end == 2
    assert engine.text(ids) == "[SEG]  the red mug[REF]  é lamp</s>"
    plain = engine.tokens(text)
    assert SEG not in plain
    assert REF in plain
    assert engine.tokens("") == []
    assert engine.tokens("a\0b \ud800")
    assert engine.token("[SEG]") == SEG
    with pytest.raises(PromptError, match=r"'\[SAM\]' must be one token of .*; it is \d+"):
        engine.token("[SAM]")


def test_backends_read_words_alike(llama):
    found, expected = (open_on(backend, llama) for backend in BACKENDS)
    letters = np.array([*"the red mug lamp.[]▁<>s/\n é漢", "[REF]", "[SEG]", "</s>", "  "])
    rng = np.random.default_rng(3)
    for length in range(40):
        text = "".join(rng.choice(letters, length))
        for special in (False, True):
            ids = found.tokens(text, special=special)
            assert ids == expected.tokens(text, special=special), text
            assert found.text(ids) == expected.text(ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_vocabulary(tmp_path, backend):
    path = tiny_gguf.write(tmp_path / "silent.gguf", tokenizer="no_vocab")
    with open_on(backend, path) as engine:
        assert engine.prefill([WORDS]).tokens == 5
        with pytest.raises(EngineError, match="must hold a vocabulary"):
            engine.tokens("red")
        with pytest.raises(EngineError, match="must hold a vocabulary"):
            engine.text(WORDS)


def test_nothing_to_read(engine):
    for parts in ([], [[]], [np.zeros((0, 64), np.float32)]):
        with pytest.raises(PromptError, match="must be a token or a vector to read; got none"):
            engine.prefill(parts)
    prefix = engine.prefill([[], WORDS, np.zeros((0, 64), np.float32)])
    assert prefix.tokens == 5
    for suffixes in ([], [WORDS, []], [[]]):
        with pytest.raises(PromptError, match="one or more, none empty.*the shortest of 0"):
            engine.extend(prefix, suffixes)
    with pytest.raises(PromptError, match="got 2 of 2 kinds"):
        engine.extend(prefix, [WORDS, np.zeros((1, 64), np.float32)])
    with pytest.raises(UsageError, match="max_tokens must be at least 1; got 0"):
        engine.generate(prefix, stop=[], max_tokens=0)
    for words in ({"stop": [400]}, {"stop": [], "watch": [-1]}):
        with pytest.raises(PromptError, match="token ids must be from 0 to 399"):
            engine.generate(prefix, max_tokens=1, **words)


def test_a_full_cache(engine):
    held = engine.prefill([[5] * 200])
    with pytest.raises(PromptError, match="room for 57 more tokens; 56 of 256 are free"):
        engine.prefill([[5] * 57], after=held)
    with pytest.raises(PromptError, match="room for 2 more tokens; 0 of 256"):
        engine.extend(held, [[5] * 56, [5] * 2])
    with pytest.raises(PromptError, match="room for 57 more tokens"):
        engine.generate(held, stop=[], max_tokens=57)
    assert engine.generate(held, stop=[], max_tokens=56).prefix.tokens == 256


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_the_model_was_trained_for(llama, backend):
    with (
        open_on(backend, llama, context_tokens=4096) as engine,
        pytest.raises(PromptError, match="at most 2048 tokens, which .* was trained for; got 2049"),
    ):
        engine.prefill([[5] * 2049])


def test_too_many_at_once(engine):
    prefix = engine.prefill([WORDS])
    assert len(engine.extend(prefix, [[5]] * (MAX_SEQUENCES - 1))) == MAX_SEQUENCES - 1
    with pytest.raises(PromptError, match=f"at most {MAX_SEQUENCES} at once"):
        engine.extend(prefix, [[5]] * MAX_SEQUENCES)
    assert _free(engine) == 251


def test_outputs_that_do_not_fit(engine, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: {"total": 9, "available": 1 << 20})
    with pytest.raises(DeviceError, match="outputs at 300 positions need 1 MiB; 1 MiB are free"):
        engine.prefill([[5] * 300], at=range(300))
    assert engine.prefill([WORDS], at=[0]).tokens == 5


def test_forgotten_prefixes_are_freed(engine, vectors):
    for _ in range(MAX_SEQUENCES + 10):
        engine.prefill([vectors])
    engine.prefill([[5] * 256])
    first = engine.prefill([[5] * 100])
    second = engine.prefill([[6] * 100], after=first)
    expected = engine.extend(second, [WORDS])[0].logits
    assert _free(engine) == 56
    first.close()
    first.close()
    assert _free(engine) == 56
    np.testing.assert_allclose(engine.extend(second, [WORDS])[0].logits, expected, atol=1e-4)
    second.close()
    assert _free(engine) == 256
    with pytest.raises(EngineError, match="must be open and of this engine"):
        engine.generate(second, stop=[], max_tokens=1)
    with pytest.raises(EngineError, match="must be open and of this engine"):
        engine.save(first)


def test_a_failure_leaves_nothing_behind(engine, monkeypatch):
    def fail(batch):
        raise EngineError("no")

    prefix = engine.prefill([WORDS])
    monkeypatch.setattr(engine._decoder, "decode", fail)
    with pytest.raises(EngineError, match="no"):
        engine.prefill([WORDS], after=prefix)
    with pytest.raises(EngineError, match="no"):
        engine.extend(prefix, SUFFIXES)
    with pytest.raises(EngineError, match="no"):
        engine.generate(prefix, stop=[], max_tokens=5)
    assert _free(engine) == 251


def test_weights_that_overflow(tmp_path):
    path = tiny_gguf.write(tmp_path / "model.gguf")
    data = bytearray(path.read_bytes())
    data[-400:] = np.full(100, np.nan, np.float32).tobytes()
    path.write_bytes(data)
    for backend in BACKENDS:
        with (
            open_on(backend, path) as engine,
            pytest.raises(EngineError, match="logits must be finite"),
        ):
            engine.prefill([WORDS])


def test_closed(llama):
    for backend in BACKENDS:
        engine = open_on(backend, llama)
        prefix = engine.prefill([WORDS])
        engine.close()
        engine.close()
        prefix.close()
        for call in (
            lambda engine=engine: engine.prefill([WORDS]),
            lambda engine=engine, prefix=prefix: engine.save(prefix),
            lambda engine=engine: engine.tokens("red"),
        ):
            with pytest.raises(EngineError, match="was closed; open it again"):
                call()


def test_a_prefix_of_another_engine(engine, llama):
    foreign = open_on("reference", llama).prefill([WORDS])
    for call in (
        lambda: engine.prefill([WORDS], after=foreign),
        lambda: engine.extend(foreign, SUFFIXES),
        lambda: engine.generate(foreign, stop=[], max_tokens=1),
        lambda: engine.save(foreign),
    ):
        with pytest.raises(EngineError, match="must be open and of this engine"):
            call()


def test_threads_wait_for_each_other(engine):
    prefix = engine.prefill([WORDS])
    expected = engine.extend(prefix, SUFFIXES)[2].logits
    found: list[np.ndarray] = []

    def work() -> None:
        for _ in range(5):
            found.append(engine.extend(prefix, SUFFIXES)[2].logits)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for logits in found:
        np.testing.assert_allclose(logits, expected, atol=1e-4)
