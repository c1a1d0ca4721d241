"""CUDA grasp refinement, run on the CPU, against its NumPy twin and the published results."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import axis_rotations, random_rotations
from hypothesis import given, settings
from hypothesis import strategies as st
from test_grasp import HANDS, assert_equal

from zerograsp_edge.kernels import Fit, Hand, RefinedGrasps
from zerograsp_edge.kernels.reference import grasp as reference

NOT_FINITE = 32  # ZgStatus
UNTOUCHED = 77


def refine(
    cuda: Library, rotation: np.ndarray, translation: np.ndarray, width: np.ndarray, depth: np.ndarray,
    points: np.ndarray, hand: Hand, spare: int | None = None,
) -> tuple[RefinedGrasps, int]:  # fmt: skip
    """Outcomes and status; with `spare`, the buffers hold that many more grasps and points."""
    n, more = len(width), spare or 0

    def padded(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.full((more, *values.shape[1:]), np.nan, np.float32)])

    out = RefinedGrasps(
        np.full(n + more, UNTOUCHED, np.float32), np.full(n + more, UNTOUCHED, np.float32),
        np.full(n + more, UNTOUCHED, np.int32), np.full(n + more, UNTOUCHED, np.uint8),
    )  # fmt: skip
    counts = (None, None) if spare is None else (count_of(n), count_of(len(points)))
    status = np.zeros(1, np.int32)
    workspace = np.full(cuda.refine_grasps_workspace(len(points) + more), 0x7F, np.uint8)
    cuda.refine_grasps(
        padded(rotation), padded(translation), padded(width), padded(depth), n + more, counts[0], padded(points),
        len(points) + more, counts[1], hand.lengths(), hand.min_inner_points, out.width, out.depth, out.inner_points,
        out.fit, status, workspace, workspace.size,
    )  # fmt: skip
    results = [out.width, out.depth, out.inner_points, out.fit]
    assert all((values[n:] == UNTOUCHED).all() for values in results)
    return RefinedGrasps(*(values[:n] for values in results)), int(status[0])


@settings(max_examples=5 if SANITIZED else 60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(SEEDS),
    points=st.sampled_from([0, 1, 9, 10, 11, 40, 1500]),
    lattice=st.booleans(),
    spread=st.sampled_from([0.01, 0.05, 0.3, 3.0]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    hand=st.sampled_from(HANDS),
    spare=st.sampled_from([None, 0, 33]),
)
def test_refinement(
    seed: int, order: int, points: int, lattice: bool, spread: float, offset: float, hand: Hand, spare: int | None
) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    count = int(rng.integers(0, 40))
    cloud = rng.uniform(-spread, spread, (points, 3))
    translation = rng.uniform(-spread, spread, (count, 3))
    width, depth = rng.uniform(0, 0.1, count), rng.uniform(0, 0.04, count)
    if lattice:  # many points coincide, and lie on faces of the hand: ties
        cloud, translation, width, depth = (
            np.round(v * 256) / 256 for v in (cloud, translation, width, depth)
        )
        rotation = axis_rotations(rng, count)
    else:
        rotation = random_rotations(rng, count)
    cloud, translation = (np.ascontiguousarray(v + offset, np.float32) for v in (cloud, translation))
    arguments = rotation, translation, width.astype(np.float32), depth.astype(np.float32), cloud, hand
    got, status = refine(cuda, *arguments, spare=spare)
    assert status == 0
    assert_equal(got, reference.refine_grasps(*arguments))


def dense_scene(seed: int) -> tuple[np.ndarray, ...]:
    """Hands at the surface of a ball of points: some fit, some do not."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((3000, 3))
    cloud = (0.03 * direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    rotation = random_rotations(rng, 150)
    translation = np.ascontiguousarray(-0.02 * rotation[:, :, 0] + rng.normal(0, 0.004, (150, 3)), np.float32)
    width, depth = rng.uniform(0.05, 0.09, 150).astype(np.float32), rng.uniform(0, 0.04, 150).astype(np.float32)
    return rotation, translation, width, depth, cloud


@pytest.mark.parametrize("order", SEEDS)
def test_dense_points(order: int) -> None:
    cuda = library()
    cuda.seed(order)
    arguments = *dense_scene(1), HANDS[5]
    got, _ = refine(cuda, *arguments)
    assert len(set(got.fit)) >= 3
    assert_equal(got, reference.refine_grasps(*arguments))


def test_a_scene_too_large_for_fine_cells() -> None:
    """Cells grow; the results stay the same."""
    rng = np.random.default_rng(2)
    rotation, translation, width, depth, cloud = dense_scene(2)
    far = rng.uniform(-200, 200, (500, 3)).astype(np.float32)
    translation[:20] = far[:20]
    arguments = rotation, translation, width, depth, np.concatenate([cloud, far]), Hand()
    assert_equal(refine(library(), *arguments)[0], reference.refine_grasps(*arguments))


@pytest.mark.slow
def test_published_results(golden_collision: dict[str, np.ndarray]) -> None:
    rows = golden_collision["grasps"]
    points = np.concatenate([golden_collision["pred_points"], golden_collision["depth_points"]]).astype(np.float32)
    rotation = np.ascontiguousarray(rows[:, 4:13], np.float32).reshape(-1, 3, 3)
    width, depth = rows[:, 1].astype(np.float32), rows[:, 3].astype(np.float32)
    got, _ = refine(library(), rotation, np.ascontiguousarray(rows[:, 13:16], np.float32), width, depth, points, Hand())
    assert ((got.fit != Fit.FITS) == golden_collision["collision_mask"]).sum() >= 999
    np.testing.assert_allclose(got.width - width, golden_collision["delta_width"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.depth, golden_collision["refined_depth"], rtol=0, atol=1e-5)


@settings(max_examples=4 if SANITIZED else 30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(SEEDS),
    count=st.sampled_from([0, 1, 2, 30, 255, 256, 257, 600]),
    lattice=st.booleans(),
    spread=st.sampled_from([0.0, 0.02, 0.1, 2.0]),
    distance=st.sampled_from([0.0, 1e-6, 0.03, 0.5]),
    angle=st.sampled_from([0.0, 30.0, 90.0, 180.0]),
    groups=st.sampled_from([1, 3]),
    spare=st.sampled_from([None, 0, 300]),
)
def test_suppression(
    seed: int, order: int, count: int, lattice: bool, spread: float, distance: float, angle: float, groups: int,
    spare: int | None,
) -> None:  # fmt: skip
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    rotation = axis_rotations(rng, count) if lattice else random_rotations(rng, count)
    translation = rng.uniform(-spread, spread, (count, 3)).astype(np.float32)
    group = rng.integers(0, groups, count).astype(np.int32)
    more = spare or 0
    kept = np.full(count + more, UNTOUCHED, np.uint8)
    workspace = np.full(cuda.suppress_grasps_workspace(count + more), 0x7F, np.uint8)
    cuda.suppress_grasps(
        np.concatenate([rotation, np.full((more, 3, 3), np.nan, np.float32)]),
        np.concatenate([translation, np.full((more, 3), np.nan, np.float32)]),
        np.concatenate([group, np.zeros(more, np.int32)]), count + more, None if spare is None else count_of(count),
        distance, float(np.float32(np.cos(np.radians(angle)))), kept, workspace, workspace.size,
    )  # fmt: skip
    expected = reference.suppress_grasps(rotation, translation, group, distance, angle)
    np.testing.assert_array_equal(kept[:count], expected)
    assert (kept[count:] == UNTOUCHED).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e5])
def test_the_status_tells_of_values_that_are_not_finite(value: float) -> None:
    cuda, scene = library(), dense_scene(3)
    good, _ = refine(cuda, *scene, Hand())
    for position in range(4):
        broken = [array.copy() for array in scene]
        broken[position][7] = value
        got, status = refine(cuda, *broken, Hand())
        assert status == NOT_FINITE
        assert got.fit[7] == Fit.EMPTY and got.inner_points[7] == 0
        np.testing.assert_array_equal(np.delete(got.fit, 7), np.delete(good.fit, 7))
    broken = [array.copy() for array in scene]
    broken[4][5, 1] = value
    assert refine(cuda, *broken, Hand())[1] == NOT_FINITE


def test_launchers_name_the_argument() -> None:
    cuda = library()
    hand = np.zeros(12, np.float32)
    rest = [10, None, None, None, None, None, None, 0]
    with pytest.raises(CudaError, match="rotation: expected device memory, got null"):
        cuda.refine_grasps(None, None, None, None, 1, None, None, 0, None, hand, *rest)
    hand[3] = np.nan
    with pytest.raises(CudaError, match="hand: expected lengths in m, got NaN at position 3"):
        cuda.refine_grasps(None, None, None, None, 0, None, None, 0, None, hand, *rest)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize(
    "change",
    [
        ("begins[cell] += sums[cell / kCellsPerBlock]", "begins[cell] += 0 * sums[0]"),  # blocks of cells overlap
        ("std::int32_t* cells = first + 1;", "std::int32_t* cells = first;"),  # ends taken for begins
        ("grid->low[axis] = low,", "grid->low[axis] = 0.0f,"),  # a grid that does not cover all that hands reach
    ],
)
def test_planted_mistakes_are_found(change: tuple[str, str]) -> None:
    arguments = *dense_scene(1), Hand()
    rng = np.random.default_rng(0)
    far = rng.uniform(-0.5, 0.5, (500, 3)).astype(np.float32)
    arguments[1][:40] = far[:40]
    arguments = *arguments[:4], np.concatenate([far, arguments[4]]), Hand()
    got, _ = refine(planted("grasp", *change), *arguments)
    with pytest.raises(AssertionError):
        assert_equal(got, reference.refine_grasps(*arguments))
