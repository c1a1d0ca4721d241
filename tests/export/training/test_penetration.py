"""Volume that two solids share, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra `sim`")

from zerograsp_edge.export.training.metrics import Surface
from zerograsp_edge.export.training.penetration import is_inside, penetration_volume


def ball(centre: tuple[float, float, float], radius: float = 40.0, count: int = 8000) -> Surface:
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Surface(np.array(centre) + radius * normals, normals)


def lens_cm3(radius: float, distance: float) -> float:
    """Volume common to two balls of one radius."""
    return (
        np.pi * (2 * radius - distance) ** 2 * (distance**2 + 4 * distance * radius) / (12 * distance) / 1000
    )


@pytest.mark.parametrize("distance", [20.0, 40.0, 60.0])
def test_two_balls(distance: float) -> None:
    apart = distance / np.sqrt(3)
    volume = penetration_volume([ball((0, 0, 500)), ball((apart, apart, 500 + apart))])
    assert volume == pytest.approx(lens_cm3(40, distance), rel=0.05)


def test_one_ball_within_another() -> None:
    volume = penetration_volume([ball((0, 0, 500), 50), ball((5, 0, 500), 20)])
    assert volume == pytest.approx(4 / 3 * np.pi * 20**3 / 1000, rel=0.05)


def test_a_voxel_counts_once_however_many_claim_it() -> None:
    twice = penetration_volume([ball((0, 0, 500)), ball((0, 0, 500))])
    assert penetration_volume([ball((0, 0, 500))] * 3) == pytest.approx(twice)
    assert twice == pytest.approx(4 / 3 * np.pi * 40**3 / 1000, rel=0.05)


def test_touching_balls_with_noisy_surfaces_share_little() -> None:
    rng = np.random.default_rng(0)
    noisy = [
        Surface(b.points + rng.normal(0, 0.5, b.points.shape), b.normals)
        for b in (ball((0, 0, 500)), ball((80, 0, 500)))
    ]
    assert penetration_volume(noisy) < 0.3


def test_what_is_apart_or_empty_shares_nothing() -> None:
    assert penetration_volume([ball((0, 0, 500)), ball((200, 0, 500))]) == 0
    # Their boxes overlap, they do not.
    assert penetration_volume([ball((0, 0, 500)), ball((60, 60, 500))]) == 0
    assert penetration_volume([ball((0, 0, 500)), Surface(np.empty((0, 3)), np.empty((0, 3)))]) == 0
    assert penetration_volume([]) == 0


def test_inside_survives_reversed_normals_here_and_there() -> None:
    surface = ball((0, 0, 0))
    assert surface.normals is not None
    wrong = np.random.default_rng(1).random(len(surface)) < 0.1
    damaged = Surface(surface.points, np.where(wrong[:, None], -surface.normals, surface.normals))
    points = np.random.default_rng(2).uniform(-50, 50, (4000, 3))
    assert (is_inside(points, damaged) == (np.linalg.norm(points, axis=1) < 40)).mean() > 0.97


def test_normals_are_needed() -> None:
    with pytest.raises(ValueError, match="needs outward normals"):
        penetration_volume([Surface(np.zeros((3, 3)))])
