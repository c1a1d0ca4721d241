"""Sensor and segmentation noise: it has the statistics it claims, and its results stay valid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zerograsp_edge.runtime.simulation.sensor import (
    FEWEST_PIXELS,
    MaskNoise,
    SensorNoise,
    measure_depth,
    segment,
)

INTRINSICS = np.array([[600.0, 0, 159.5], [0, 600, 119.5], [0, 0, 1]])
GREY = np.full((240, 320, 3), 128, np.uint8)
PLAIN = SensorNoise(
    disparity=0.0, quantisation=0.0, shadows=False, scale_error=1e-12
)  # not `clean`, yet exact


def flat(depth: float) -> np.ndarray:
    return np.full((240, 320), depth, np.float32)


def measured(depth: np.ndarray, rgb: np.ndarray = GREY, seed: int = 0, **strengths: float) -> np.ndarray:
    noise = replace(PLAIN, **strengths)  # type: ignore[arg-type]
    return measure_depth(depth, rgb, INTRINSICS, noise, np.random.default_rng(seed))


def blocks() -> np.ndarray:
    """Three objects on a background; 1 and 2 touch."""
    mask = np.zeros((240, 320), np.uint8)
    mask[40:120, 40:110] = 1
    mask[40:120, 110:180] = 2
    mask[150:200, 60:200] = 7
    return mask


def step(near: float = 500, far: float = 1000) -> np.ndarray:
    depth = flat(far)
    depth[60:180, 120:200] = near
    return depth


def test_error_grows_with_the_square_of_depth() -> None:
    errors = [(measured(flat(z), disparity=0.08, correlation=2.0) - z).std() for z in (400, 800, 1600)]
    np.testing.assert_allclose(errors[1] / errors[0], 4, rtol=0.15)
    np.testing.assert_allclose(errors[2] / errors[1], 4, rtol=0.15)
    assert errors[0] == pytest.approx(400**2 / (600 * 50) * 0.08, rel=0.15)


def test_error_is_as_smooth_as_said() -> None:
    for correlation in (1.0, 4.0):
        error = measured(flat(800), disparity=0.05, correlation=correlation) - 800
        # of white noise blurred by sigma, neighbours correlate by exp(-1 / (4 sigma^2))
        neighbours = np.corrcoef(error[:, 1:].ravel(), error[:, :-1].ravel())[0, 1]
        assert neighbours == pytest.approx(np.exp(-1 / (4 * correlation**2)), abs=0.05)


def test_disparity_is_quantised() -> None:
    ramp = np.broadcast_to(np.linspace(500, 900, 320, dtype=np.float32), (240, 320))
    steps = 600 * 50 / measured(ramp, quantisation=1 / 8).astype(np.float64) * 8
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert len(np.unique(np.rint(steps))) == pytest.approx(8 * 600 * 50 * (1 / 500 - 1 / 900), rel=0.03)


@pytest.mark.parametrize("side", [1, -1])
def test_shadows_lie_beside_near_things_on_the_second_imagers_far_side(side: int) -> None:
    holes = measured(step(), shadows=True, flip=side) == 0
    columns = np.flatnonzero(holes[100])
    assert len(columns) == pytest.approx(600 * 50 * (1 / 500 - 1 / 1000), abs=1)
    assert columns.max() == 119 if side > 0 else columns.min() == 200
    assert not holes[:60].any() and not holes[180:].any()


def test_clean_is_exact() -> None:
    depth = step()
    depth[:10] = 0
    result = measure_depth(depth, GREY, INTRINSICS, SensorNoise.clean(), np.random.default_rng(0))
    np.testing.assert_array_equal(result, depth)


def test_edges_are_mixed_and_lost_only_near_edges() -> None:
    depth = step()
    away = np.ones(depth.shape, bool)
    away[50:190, 110:210] = False
    away[70:170, 130:190] = True
    blurred, lossy = measured(depth, blur=1.5), measured(depth, edge_loss=0.9)
    between = (blurred > 520) & (blurred < 980)
    assert between.sum() > 200 and not between[away].any()
    np.testing.assert_allclose(blurred[away], depth[away], rtol=1e-5)
    assert (lossy == 0).sum() > 300 and (lossy[away] > 0).all()


def test_holes_come_in_blobs_of_the_share_asked_for() -> None:
    shares = [(measured(flat(600), seed=seed, holes=0.05) == 0).mean() for seed in range(20)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)
    holes = measured(flat(600), holes=0.05) == 0
    beside = holes[:, 1:][holes[:, :-1]].mean()
    assert beside > 0.5


def test_dark_shining_and_grazing_surfaces_lose_depth() -> None:
    rgb = GREY.copy()
    rgb[:, :100], rgb[:, 200:] = 3, 254
    holes = measured(flat(600), rgb, dark_loss=1.0) == 0
    assert holes[:, :100].mean() > 0.3 and holes[:, 200:].mean() > 0.3 and not holes[:, 100:200].any()
    # A wall from 0.2 m to 0.6 m away that the sight meets at a cosine of 0.1 to 0.3.
    wall = 300 / (1 - (np.arange(120, dtype=np.float32) - 60) / 600 * 5)
    wall = np.ascontiguousarray(np.broadcast_to(wall, (240, 120)))
    grazed = measure_depth(
        wall, GREY[:, :120], INTRINSICS - [[0, 0, 99.5], [0, 0, 0], [0, 0, 0]], replace(PLAIN, grazing_loss=1.0),
        np.random.default_rng(0),
    )  # fmt: skip
    assert 0.05 < (grazed == 0).mean() < 0.9
    assert not (measured(flat(600), grazing_loss=1.0) == 0).any()


def test_holes_never_fill_and_same_seed_is_same_noise() -> None:
    depth = step()
    depth[100:140, 20:60] = 0
    for seed in range(30):
        noise = SensorNoise.draw(np.random.default_rng(seed))
        one = measure_depth(depth, GREY, INTRINSICS, noise, np.random.default_rng(seed))
        assert one.dtype == np.float32 and np.isfinite(one).all()
        assert (one[depth == 0] == 0).all() and (one >= 0).all()
        assert np.median(np.abs(one - depth)[one > 0]) < 12
        np.testing.assert_array_equal(
            one, measure_depth(depth, GREY, INTRINSICS, noise, np.random.default_rng(seed))
        )


def test_drawn_strengths_include_none_and_much() -> None:
    draws = [SensorNoise.draw(np.random.default_rng(seed)) for seed in range(200)]
    assert 5 < sum(noise == SensorNoise.clean() for noise in draws) < 45
    assert max(noise.disparity for noise in draws) > 0.09
    masks = [MaskNoise.draw(np.random.default_rng(seed)) for seed in range(200)]
    assert 25 < sum(noise == MaskNoise() for noise in masks) < 80
    assert max(noise.wobble for noise in masks) > 2


def test_masks_stay_masks() -> None:
    exact, depth = blocks(), flat(600)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = segment(exact, depth, MaskNoise.draw(rng), rng)
        assert mask.dtype == np.uint8 and mask.shape == exact.shape
        assert set(np.unique(mask)) <= {0, 1, 2, 7}
        for object_id in (1, 2, 7):
            one, other = mask == object_id, exact == object_id
            assert (one & other).sum() / (one | other).sum() > 0.45


def test_exact_masks_are_possible() -> None:
    np.testing.assert_array_equal(
        segment(blocks(), flat(600), MaskNoise(), np.random.default_rng(0)), blocks()
    )


@pytest.mark.parametrize(("grow", "sign"), [((2.0, 2.0), 1), ((-2.0, -2.0), -1)])
def test_masks_grow_and_shrink(grow: tuple[float, float], sign: int) -> None:
    mask = segment(blocks(), flat(600), MaskNoise(grow=grow), np.random.default_rng(0))
    change = (mask == 7).sum() - (blocks() == 7).sum()
    assert change * sign == pytest.approx(2 * 2 * (50 + 140), rel=0.1)


def test_masks_lose_pieces_and_leak_into_neighbours() -> None:
    cut = segment(blocks(), flat(600), MaskNoise(cut=1.0), np.random.default_rng(0))
    for object_id in (1, 2, 7):
        assert 0.6 < (cut == object_id).sum() / (blocks() == object_id).sum() < 0.99
    merged = segment(blocks(), flat(600), MaskNoise(merge=1.0), np.random.default_rng(0))
    swapped = (merged != blocks()) & (merged > 0)
    assert 100 < swapped.sum() < 0.3 * 80 * 140
    assert (merged == 7).sum() == (blocks() == 7).sum()


def test_objects_without_depth_are_dropped() -> None:
    depth = flat(600)
    depth[40:120, 40:110] = 0
    depth[50, 50 : 50 + FEWEST_PIXELS - 1] = 600
    mask = segment(blocks(), depth, MaskNoise(), np.random.default_rng(0))
    assert set(np.unique(mask)) == {0, 2, 7}
    depth[51, 50] = 600
    assert 1 in segment(blocks(), depth, MaskNoise(), np.random.default_rng(0))
