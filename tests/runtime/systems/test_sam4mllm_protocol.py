"""Protocols come back from settings as they were, and points lie where the sources put them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.errors import BundleError
from saymask.runtime.systems.sam4mllm_protocol import (
    MINIATURE,
    PAPER,
    RELEASED,
    fixed_points,
    grid_points,
    protocol_from_settings,
    random_points,
    settings_from_protocol,
)


@pytest.mark.parametrize("protocol", [PAPER, RELEASED, MINIATURE, replace(PAPER, variant="ppg")])
def test_settings_there_and_back(protocol):
    settings = settings_from_protocol(protocol)
    assert all(isinstance(value, str) for _, value in settings)
    assert protocol_from_settings((*settings, ("another's", "3"))) == protocol


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("variant", "qqpp", "variant must be one of pqpp, ppg; got 'qqpp'"),
        ("count", "2", r"count must be one of 1, 1\+, 0\+; got '2'"),
        ("points", "spiral", "points must be one of grid, fixed, random; got 'spiral'"),
        ("point_count", "11", "point_count must be from 1 to 10, .* got 11"),
        ("point_count", "many", "settings must hold .* ValueError.*invalid literal"),
        ("max_tokens", "0", "max_tokens from 1 .* got 5, 0 and 4096"),
        ("keep_yes", "1.5", "must be from 0 to 1; got 1.5, 0.9 and 1.0"),
        ("keep_no", "nan", "must be from 0 to 1; got 0.9, nan and 1.0"),
        ("reject_above", "-1", "must be from 0 to 1; got 0.9, 0.9 and -1.0"),
        ("is_batched", "yes", "settings must hold variant, .* is_batched"),
    ],
)
def test_settings_that_make_no_sense(name, value, message):
    settings = dict(settings_from_protocol(PAPER)) | {name: value}
    with pytest.raises(BundleError, match=message):
        protocol_from_settings(tuple(settings.items()))


def test_a_missing_setting():
    with pytest.raises(BundleError, match="settings must hold .* KeyError.'context_tokens'"):
        protocol_from_settings(settings_from_protocol(PAPER)[:-1])


def test_the_released_points_of_side_view_bird():
    box = np.array([281, 240, 863, 999])
    points = RELEASED.points_in(box)
    assert points[:5].tolist() == [[822, 771], [577, 915], [810, 923], [467, 482], [793, 315]]
    assert points.shape == (15, 2)
    assert fixed_points(box, 30).shape == (30, 2)


def test_a_grid_fills_its_box():
    points = grid_points(np.array([100, 200, 200, 250]), 5)
    assert points.shape == (25, 2)
    assert points[0].tolist() == [110, 205]
    assert points[-1].tolist() == [190, 245]
    assert points[1].tolist() == [130, 205]
    assert (grid_points(np.array([7, 7, 7, 7]), 3) == 7).all()
    np.testing.assert_array_equal(PAPER.points_in(np.array([0, 0, 999, 999]))[12], [500, 500])


def test_random_points_lie_anywhere_in_their_box():
    box = np.array([100, 200, 140, 999])
    points = replace(PAPER, points="random", point_count=6).points_in(box)
    assert points.shape == (36, 2)
    assert points.dtype == np.int64
    assert (points >= box[:2]).all()
    assert (points <= box[2:]).all()
    np.testing.assert_array_equal(random_points(box.copy(), 6), points)
    assert not np.array_equal(random_points(box + 1, 6), points + 1)
    assert (random_points(np.array([7, 7, 7, 7]), 3) == 7).all()
    many = np.concatenate([random_points(np.array([0, 0, at, 999]), 10) for at in range(900, 999)])
    tenths, _ = np.histogram(many[:, 1], bins=10, range=(0, 1000))
    np.testing.assert_allclose(tenths, len(many) / 10, rtol=0.1)


def test_no_is_looked_at_first():
    chances = np.array([[0.7, 0.3], [0.3, 0.7], [0.95, 0.05], [0.05, 0.95]])
    assert PAPER.labels_of(chances).tolist() == [-1, -1, 1, 0]
    every = replace(PAPER, keep_yes=0.0, keep_no=0.5)
    assert every.labels_of(chances).tolist() == [1, 0, 1, 0]
    assert replace(every, keep_no=0.0).labels_of(chances).tolist() == [0, 0, 0, 0]
