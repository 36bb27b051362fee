import numpy as np

from saymask.train.cache import Phrases
from saymask.train.phrases import draw_phrases


def test_a_batch_follows_the_mix_not_the_cache():
    task = np.array(["single"] * 2 + ["part"] * 90 + ["semantic"] * 8)
    phrases = Phrases([""] * 100, np.zeros(100), np.zeros((100, 10)), np.zeros(100), task)
    mix = {"single": 0.7, "part": 0.2, "semantic": 0.1}
    chosen = draw_phrases(phrases, np.random.default_rng(0), mix=mix, count=4000)
    assert chosen.dtype == np.int64
    for name, share in mix.items():
        spread = (share * (1 - share) / len(chosen)) ** 0.5
        assert abs((task[chosen] == name).mean() - share) < 4 * spread
    assert set(np.unique(chosen)) == set(range(100)), "every phrase of a task is drawn"


def test_a_task_outside_the_mix_is_never_drawn():
    task = np.array(["single", "part"] * 5)
    phrases = Phrases([""] * 10, np.zeros(10), np.zeros((10, 10)), np.zeros(10), task)
    chosen = draw_phrases(phrases, np.random.default_rng(0), mix={"part": 1.0}, count=50)
    assert set(task[chosen]) == {"part"}
