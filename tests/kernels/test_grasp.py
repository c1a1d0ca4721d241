"""Grasp refinement and suppression: native kernel against its twin, the published results and analytic scenes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from generators import axis_rotations, random_rotations
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels import Fit, Hand, RefinedGrasps, Workspace, refine_grasps, suppress_grasps
from zerograsp_edge.kernels.reference import grasp as reference

Float = np.ndarray
HANDS = (
    Hand(),
    Hand(sweep=0.1),
    Hand(sweep=0.0, max_opening=0.05),
    Hand(sweep=0.05, tip_margin=0.008),
    Hand(finger_length=0.06, tip_margin=math.inf),
    Hand(
        finger_length=0.045,
        palm_width=0.18,
        palm_height=0.08,
        palm_thickness=0.05,
        max_opening=0.08,
        sweep=0.05,
    ),
)


def assert_equal(got: RefinedGrasps, expected: RefinedGrasps) -> None:
    for name in ("fit", "inner_points", "width", "depth"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


def test_published_results(golden_collision: dict[str, np.ndarray]) -> None:
    rows = golden_collision["grasps"]
    points = np.concatenate([golden_collision["pred_points"], golden_collision["depth_points"]])
    width, depth = rows[:, 1].copy(), rows[:, 3].copy()
    got = refine_grasps(
        np.ascontiguousarray(rows[:, 4:13]).reshape(-1, 3, 3),
        np.ascontiguousarray(rows[:, 13:16]), width, depth, points.astype(np.float32),
    )  # fmt: skip
    assert ((got.fit != Fit.FITS) == golden_collision["collision_mask"]).sum() >= 999
    np.testing.assert_allclose(got.width - width, golden_collision["delta_width"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.depth, golden_collision["refined_depth"], rtol=0, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.sampled_from([0, 1, 2, 9, 10, 11, 40, 1500]),
    lattice=st.booleans(),
    spread=st.sampled_from([0.01, 0.05, 0.3, 3.0]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    hand=st.sampled_from(HANDS),
    threads=st.sampled_from([1, 3]),
)
def test_kernel_equals_twin(
    seed: int, points: int, lattice: bool, spread: float, offset: float, hand: Hand, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    cloud = rng.uniform(-spread, spread, (points, 3))
    translation = rng.uniform(-spread, spread, (count, 3))
    width, depth = rng.uniform(0, 0.1, count), rng.uniform(0, 0.04, count)
    if lattice:  # eighths of a cubic inch, nearly: many points coincide, and lie on faces of the hand
        cloud, translation, width, depth = (
            np.round(v * 256) / 256 for v in (cloud, translation, width, depth)
        )
        rotation = axis_rotations(rng, count)
    else:
        rotation = random_rotations(rng, count)
    cloud, translation = (np.ascontiguousarray(v + offset, np.float32) for v in (cloud, translation))
    arguments = rotation, translation, width.astype(np.float32), depth.astype(np.float32), cloud, hand
    assert_equal(refine_grasps(*arguments, threads=threads), reference.refine_grasps(*arguments))


def test_a_dense_scene_exercises_every_outcome() -> None:
    """So that the comparison with the twin is not one of empty grasps."""
    rng = np.random.default_rng(0)
    cloud = np.concatenate([rng.uniform(-0.02, 0.02, (4000, 3)), rng.uniform(-0.3, 0.3, (3000, 3))])
    count = 600
    translation = rng.uniform(-0.05, 0.05, (count, 3)).astype(np.float32)
    width, depth = (rng.uniform(0, high, count).astype(np.float32) for high in (0.1, 0.04))
    rotation, cloud = random_rotations(rng, count), cloud.astype(np.float32)
    hand = Hand(sweep=0.04, max_opening=0.06)
    got = refine_grasps(rotation, translation, width, depth, cloud, hand)
    assert set(got.fit.tolist()) == set(Fit)
    assert_equal(got, reference.refine_grasps(rotation, translation, width, depth, cloud, hand))


@pytest.mark.parametrize("far", [50.0, 5000.0])
def test_far_points_and_grasps_do_not_change_the_others(far: float) -> None:
    rng = np.random.default_rng(1)
    cloud = rng.uniform(-0.1, 0.1, (2000, 3)).astype(np.float32)
    translation = rng.uniform(-0.1, 0.1, (50, 3)).astype(np.float32)
    rotation = random_rotations(rng, 50)
    width, depth = np.full(50, 0.06, np.float32), np.full(50, 0.02, np.float32)
    cloud[7], cloud[8], translation[3], translation[4] = far, -far, far, -far
    assert_equal(
        refine_grasps(rotation, translation, width, depth, cloud, Hand(sweep=0.1)),
        reference.refine_grasps(rotation, translation, width, depth, cloud, Hand(sweep=0.1)),
    )


def test_large_numbers() -> None:
    """200,000 points and 20,000 grasps; the twin checks every hundredth grasp."""
    rng = np.random.default_rng(2)
    cloud = (rng.standard_normal((200_000, 3)) * [0.3, 0.3, 0.02]).astype(np.float32)
    count = 20_000
    translation = (rng.standard_normal((count, 3)) * [0.3, 0.3, 0.05]).astype(np.float32)
    rotation = random_rotations(rng, count)
    width, depth = (rng.uniform(0, high, count).astype(np.float32) for high in (0.1, 0.04))
    got = refine_grasps(rotation, translation, width, depth, cloud, threads=2)
    some = slice(None, None, 100)
    expected = reference.refine_grasps(
        rotation[some], translation[some], width[some], depth[some], cloud, Hand()
    )
    assert_equal(
        RefinedGrasps(got.width[some], got.depth[some], got.inner_points[some], got.fit[some]), expected
    )


def test_one_workspace_serves_frames_of_any_size() -> None:
    rng, workspace = np.random.default_rng(3), Workspace()
    for points, count in [(3000, 40), (5, 100), (0, 3), (2000, 0), (900, 60)]:
        cloud = rng.uniform(-0.1, 0.1, (points, 3)).astype(np.float32)
        pose = random_rotations(rng, count), rng.uniform(-0.1, 0.1, (count, 3)).astype(np.float32)
        width, depth = np.full(count, 0.05, np.float32), np.full(count, 0.02, np.float32)
        got = refine_grasps(*pose, width, depth, cloud, workspace=workspace)
        assert_equal(got, reference.refine_grasps(*pose, width, depth, cloud, Hand()))


# One grasp at the origin: approach +x, closing +y, height +z.
IDENTITY, ORIGIN = np.eye(3, dtype=np.float32)[None], np.zeros((1, 3), np.float32)


def single(
    points: object, width: float = 0.05, depth: float = 0.03, hand: Hand | None = None
) -> RefinedGrasps:
    cloud = np.ascontiguousarray(points, np.float32).reshape(-1, 3)
    sizes = np.array([width], np.float32), np.array([depth], np.float32)
    got = refine_grasps(IDENTITY, ORIGIN, *sizes, cloud, hand)
    assert_equal(got, reference.refine_grasps(IDENTITY, ORIGIN, *sizes, cloud, hand or Hand()))
    return got


def wall(y: float, x: float = 0.01, count: int = 10) -> list[tuple[float, float, float]]:
    return [(x, y, 0.0005 * i) for i in range(count)]


def test_contacts_set_width_and_depth() -> None:
    """A block of 42 mm between fingers 50 mm apart keeps its 4 mm; one nearer or farther than the limits does not."""
    block = [*wall(-0.021, 0.012), *wall(0.021, 0.018)]
    got = single(block)
    np.testing.assert_allclose(got.width, 0.05, atol=1e-7)
    np.testing.assert_allclose(got.depth, 0.018, atol=1e-7)  # the deeper contact
    assert got.fit == Fit.FITS and got.inner_points == 20
    np.testing.assert_allclose(single([*wall(-0.024), *wall(0.021)]).width, 0.053, atol=1e-6)
    np.testing.assert_allclose(single([*wall(-0.01), *wall(0.01)]).width, 0.04, atol=1e-6)


def test_the_contact_between_equals_is_the_first_point() -> None:
    """With points on one side only, all others count as in the middle: the cloud's first point is the contact."""
    outside = (-0.2, 0.0, 0.5)
    assert single([outside, *wall(0.021, 0.012)]).depth == np.float32(0.012)
    ahead = (0.025, 0.0, 0.5)
    assert single([ahead, *wall(0.021, 0.012)]).depth == np.float32(0.025)
    assert single([*wall(0.021, 0.012), ahead]).depth == np.float32(0.025)
    assert single([*wall(0.0, 0.007), ahead]).depth == np.float32(0.007)


def test_few_or_no_points_are_empty() -> None:
    assert single(wall(0.0)).fit == Fit.FITS
    assert single(wall(0.0, count=9)).fit == Fit.EMPTY
    got = single([])
    assert (got.fit, got.inner_points, got.width, got.depth) == (
        Fit.EMPTY,
        0,
        np.float32(0.05),
        np.float32(0.03),
    )


@pytest.mark.parametrize(
    ("point", "fit"),
    [
        ((0.0, 0.0251, 0.0), Fit.FINGER),
        ((0.0, -0.0349, 0.0099), Fit.FINGER),
        ((0.0, 0.0351, 0.0), Fit.FITS),
        ((0.0, 0.03, 0.0101), Fit.FITS),
        ((0.0151, 0.03, 0.0), Fit.FITS),  # beyond the refined depth
        ((-0.0201, 0.0, 0.0), Fit.PALM),
        ((-0.0201, 0.03, 0.0), Fit.PALM),
        ((-0.0299, 0.0, 0.0), Fit.PALM),
        ((-0.0301, 0.0, 0.0), Fit.SWEEP),
        ((-0.06, 0.0, 0.0), Fit.SWEEP),
        ((-0.1301, 0.0, 0.0), Fit.FITS),
    ],
)
def test_one_point_collides_where_the_hand_is(point: tuple[float, float, float], fit: Fit) -> None:
    block = [*wall(-0.021, 0.015), *wall(0.021, 0.015)]
    assert single([*block, point], hand=Hand(sweep=0.1)).fit == fit
    without = Fit.FITS if fit == Fit.SWEEP else fit
    assert single([*block, point]).fit == without


def test_a_hand_that_opens_less_takes_less_clearance_or_refuses() -> None:
    hand = Hand(max_opening=0.048)
    fitting = single([*wall(-0.021), *wall(0.021)], hand=hand)
    assert fitting.fit == Fit.FITS and fitting.width == np.float32(0.048)
    assert single([*wall(-0.0218), *wall(0.0218)], hand=hand).fit == Fit.TOO_WIDE


def test_fingers_of_a_given_length_end_at_their_tips() -> None:
    """The palm follows the tips: 45 mm behind a depth of 15 mm it begins at -30 mm."""
    hand = Hand(finger_length=0.045, palm_width=0.18, palm_height=0.08, palm_thickness=0.05)
    block = [*wall(-0.021, 0.015), *wall(0.021, 0.015)]
    assert single([*block, (-0.029, 0.08, 0.0)], hand=hand).fit == Fit.FITS
    assert single([*block, (-0.031, 0.08, 0.03)], hand=hand).fit == Fit.PALM
    assert single([*block, (-0.079, 0.08, 0.03)], hand=hand).fit == Fit.PALM
    assert single([*block, (-0.081, 0.08, 0.03)], hand=hand).fit == Fit.FITS


def test_the_refined_opening_is_swept() -> None:
    """A contact at a finger's face opens the hand by 5 mm; the wider hand hits a post that the given one misses."""
    block, post = [*wall(-0.025), *wall(0.025)], (0.0, 0.0365, 0.0)
    assert single([*block, post]).fit == Fit.FITS
    assert single([*block, post], hand=Hand(sweep=0.0)).fit == Fit.SWEEP


def test_errors_name_the_argument() -> None:
    cloud, one = np.zeros((4, 3), np.float32), np.full(1, 0.02, np.float32)
    good = {"rotation": IDENTITY, "translation": ORIGIN, "width": one, "depth": one, "points": cloud}
    for name in good:
        for bad in (np.nan, np.inf, -np.inf):
            broken = good[name].copy()
            broken.flat[0] = bad
            with pytest.raises(ValueError, match=f"{name}: expected"):
                refine_grasps(**{**good, name: broken})
        with pytest.raises(ValueError, match=f"{name}: expected"):
            refine_grasps(**{**good, name: good[name].astype(np.float64)})
    with pytest.raises(ValueError, match="rotation: expected orthonormal"):
        refine_grasps(**{**good, "rotation": 2 * IDENTITY})
    with pytest.raises(ValueError, match="width: expected lengths in m, not negative"):
        refine_grasps(**{**good, "width": -one})
    with pytest.raises(ValueError, match="points: expected finite values within"):
        refine_grasps(**{**good, "points": cloud + 1e6})
    with pytest.raises(ValueError, match="threads"):
        refine_grasps(**good, threads=-1)
    with pytest.raises(TypeError, match="points"):
        refine_grasps(**{**good, "points": [[0, 0, 0]]})
    with pytest.raises(ValueError, match="hand: expected finger_height"):
        Hand(finger_height=-1)
    with pytest.raises(ValueError, match="min_clearance <= max_clearance"):
        Hand(min_clearance=0.02)
    with pytest.raises(ValueError, match="hand: expected palm_width"):
        Hand(palm_width=math.nan)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([0, 1, 2, 30, 200]),
    lattice=st.booleans(),
    spread=st.sampled_from([0.0, 0.02, 0.1, 2.0]),
    distance=st.sampled_from([0.0, 1e-6, 0.03, 0.5, 100.0]),
    angle=st.sampled_from([0.0, 30.0, 90.0, 180.0]),
    groups=st.sampled_from([1, 3]),
)
def test_suppression_equals_twin(
    seed: int, count: int, lattice: bool, spread: float, distance: float, angle: float, groups: int
) -> None:
    rng = np.random.default_rng(seed)
    rotation = axis_rotations(rng, count) if lattice else random_rotations(rng, count)
    translation = rng.uniform(-spread, spread, (count, 3))
    if lattice:
        translation = np.round(translation / 0.03) * 0.03
    translation = np.ascontiguousarray(translation, np.float32)
    group = rng.integers(0, groups, count).astype(np.int32)
    kept = suppress_grasps(rotation, translation, group, distance, angle)
    np.testing.assert_array_equal(
        kept, reference.suppress_grasps(rotation, translation, group, distance, angle)
    )
    again = suppress_grasps(rotation[kept], translation[kept], group[kept], distance, angle)
    assert again.all()


def turn(axis: int, degrees: float) -> Float:
    """(3, 3) rotation about a grasp axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("half_turn", [False, True])
@pytest.mark.parametrize(
    ("degrees", "same"), [(0, True), (29.9, True), (30.1, False), (-29.9, True), (90, False)]
)
def test_angle_and_half_turn(axis: int, half_turn: bool, degrees: float, same: bool) -> None:
    rng = np.random.default_rng(5)
    first = random_rotations(rng, 1)[0].astype(np.float64)
    second = first @ turn(axis, degrees) @ (turn(0, 180) if half_turn else np.eye(3))
    for pair in ((first, second), (second, first)):
        kept = suppress_grasps(
            np.ascontiguousarray(pair, np.float32), np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
        )
        assert kept.tolist() == [True, not same]


def test_opposite_approaches_are_different_grasps() -> None:
    rotation = np.stack([np.eye(3), turn(1, 180), turn(2, 180)]).astype(np.float32)
    assert suppress_grasps(rotation, np.zeros((3, 3), np.float32), np.zeros(3, np.int32)).tolist() == [
        True, True, False,
    ]  # turned about z and about y differ by the half turn about the approach  # fmt: skip


def test_distance_is_strict_and_groups_are_apart() -> None:
    rotation = np.repeat(IDENTITY, 3, axis=0)
    translation = np.array([[0, 0, 0], [0.03125, 0, 0], [0.03, 0, 0]], np.float32)
    group = np.zeros(3, np.int32)
    assert suppress_grasps(rotation, translation, group, 0.03125).tolist() == [True, True, False]
    assert suppress_grasps(rotation, translation, np.arange(3, dtype=np.int32), 1.0).all()
    with pytest.raises(ValueError, match="angle"):
        suppress_grasps(rotation, translation, group, 0.03, 181)
    with pytest.raises(ValueError, match="distance"):
        suppress_grasps(rotation, translation, group, math.nan)
    with pytest.raises(ValueError, match="group"):
        suppress_grasps(rotation, translation, group[:2])
