"""Refinement of a frame's grasps: analytic scenes, constraints, suppression, counts, and the pipeline's stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support, Workspace
from zerograsp_edge.runtime.grasp.gripper import FRANKA, GRIPPERS, ROBOTIQ_2F85, gripper_preset
from zerograsp_edge.runtime.grasp.nms import non_maximum_suppression, rank
from zerograsp_edge.runtime.grasp.refine import (
    REASONS,
    RefineConfig,
    refine_grasps,
    refine_objects,
    scene_points,
    visible_points,
)
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result

DOWN = np.array(
    [[0, 1, 0], [0, 0, -1], [-1, 0, 0]], np.float32
)  # columns: approach -z, closing +x, height -y


def lattice(low: tuple[float, ...], high: tuple[float, ...], step: float = 0.0025) -> np.ndarray:
    """Points of a box's surface, m."""
    axes = [np.linspace(a, b, round((b - a) / step) + 1) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = np.all(
        [(points[:, i] > low[i] + 1e-6) & (points[:, i] < high[i] - 1e-6) for i in range(3)], axis=0
    )
    return points[~inside].astype(np.float32)


NARROW = replace(FRANKA, hand=replace(FRANKA.hand, max_opening=0.04))

# A box of 40 x 60 x 60 mm on a table, z up.
BOX = lattice((-0.02, -0.03, 0.0), (0.02, 0.03, 0.06))
TABLE = lattice((-0.2, -0.2, 0.0), (0.2, 0.2, 0.0), 0.005)
SCENE = np.concatenate([BOX, TABLE])


def grasps_at(
    translations: object, rotation: np.ndarray = DOWN, *, width: float = 0.05, depth: float = 0.03,
    score: object = None, object_id: object = 1,
) -> Grasps:  # fmt: skip
    at = np.asarray(translations, np.float32).reshape(-1, 3)
    n = len(at)
    rotation = np.broadcast_to(np.asarray(rotation, np.float32), (n, 3, 3)).copy()
    return Grasps(
        score=np.asarray(np.linspace(1, 0.5, n) if score is None else score, np.float32),
        width=np.full(n, width, np.float32),
        depth=np.full(n, depth, np.float32),
        rotation=rotation,
        translation=at,
        object_id=np.broadcast_to(np.asarray(object_id, np.int32), n).copy(),
    )


def removed_by(grasps: Grasps, config: RefineConfig, points: np.ndarray = SCENE) -> str:
    """The reason that removed the only grasp; `kept` if none did."""
    _, refinement = refine_grasps(grasps, points, config)
    reasons = [reason for reason, count in refinement.removed.items() if count] + ["kept"] * refinement.kept
    assert len(reasons) == 1
    return reasons[0]


def test_box_on_a_table_from_above() -> None:
    """The fingers straddle the box: the opening stays (5 mm to either side), the depth ends at the contacts."""
    kept, refinement = refine_grasps(grasps_at([0, 0, 0.06]), SCENE)
    assert len(kept) == refinement.kept == 1
    np.testing.assert_allclose(kept.width, 0.05, atol=1e-6)
    assert 0 <= kept.depth[0] <= 0.03
    assert refinement.explain() == ()


@pytest.mark.parametrize(
    ("grasp", "config", "reason"),
    [
        (grasps_at([0, 0, 0.06]), RefineConfig(min_score=2.0), "too low score"),
        (grasps_at([0, 0, 0.06]), RefineConfig(workspace=Workspace((-1, -1, -1), (1, 1, 0.05))), "workspace"),
        (grasps_at([0, 0, 0.06]), RefineConfig(approach=ApproachCone((0, 1, 0), 80)), "approach cone"),
        (grasps_at([0, 0, 0.2]), RefineConfig(), "empty"),
        (grasps_at([0, 0, 0.06], width=0.06), RefineConfig(NARROW), "too wide"),
        (grasps_at([0.018, 0, 0.06]), RefineConfig(), "finger collision"),
        (grasps_at([0, 0, 0.03]), RefineConfig(), "palm collision"),
        (grasps_at([0, 0, 0.06]), RefineConfig(), "kept"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_each_reason(grasp: Grasps, config: RefineConfig, reason: str) -> None:
    assert removed_by(grasp, config) == reason


def test_a_lid_above_is_in_the_way() -> None:
    """A thin shelf 80 mm above the box: the grasp itself is free, its path is not."""
    lid = lattice((-0.1, -0.1, 0.14), (0.1, 0.1, 0.14))
    points = np.concatenate([SCENE, lid])
    assert removed_by(grasps_at([0, 0, 0.06]), RefineConfig(), points) == "sweep"
    assert removed_by(grasps_at([0, 0, 0.06]), RefineConfig(approach_distance=0.04), points) == "kept"
    assert removed_by(grasps_at([0, 0, 0.06]), RefineConfig(approach_distance=None), points) == "kept"


SIDEWAYS = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]], np.float32)  # approach +y, closing +x, height -z


def test_a_hand_below_the_table_collides_without_a_point_there() -> None:
    low = grasps_at([0, -0.03, 0.008], SIDEWAYS)
    assert removed_by(low, RefineConfig(), BOX) == "kept"
    assert removed_by(low, RefineConfig(support=Support()), BOX) == "support"
    high = grasps_at([0, -0.03, 0.0101], SIDEWAYS)
    assert removed_by(high, RefineConfig(support=Support()), BOX) == "kept"
    assert removed_by(high, RefineConfig(support=Support(clearance=0.005)), BOX) == "support"
    assert removed_by(high, RefineConfig(support=Support(normal=(0, 0, 2), offset=0.005)), BOX) == "support"


def test_support_height_is_that_of_the_lowest_corner() -> None:
    """Against all corners of the hand's boxes, at random poses."""
    rng = np.random.default_rng(0)
    count = 50
    rotation, _ = np.linalg.qr(rng.standard_normal((count, 3, 3)))
    rotation[:, :, 2] *= np.linalg.det(rotation)[:, None]
    grasps = grasps_at(rng.standard_normal((count, 3)))
    grasps = replace(grasps, rotation=rotation.astype(np.float32))
    support = Support((0.3, -0.5, 2.0), 0.1)
    normal = np.array(support.normal) / np.linalg.norm(support.normal)
    for gripper in GRIPPERS.values():
        hand, expected = gripper.hand, np.full(count, np.inf)
        for i in range(count):
            base = grasps.depth[i] - hand.finger_length if hand.finger_length else -hand.finger_base
            outer = grasps.width[i] / 2 + hand.finger_thickness
            palm = hand.palm_width / 2 or outer
            for x0, x1, y, z in [
                (base, grasps.depth[i], outer, hand.finger_height / 2),
                (base - hand.palm_thickness, base, palm, hand.palm_height / 2),
            ]:
                corners = np.array(
                    [(x, a * y, b * z) for x in (x0 - 0.1, x1) for a in (-1, 1) for b in (-1, 1)]
                )
                world = corners @ rotation[i].T + grasps.translation[i]
                expected[i] = min(expected[i], (world @ normal).min() - 0.1)
        np.testing.assert_allclose(support.height(grasps, hand, 0.1), expected, atol=1e-5)


def test_constraints_are_in_the_world_frame() -> None:
    """A camera that looks down on the table: the same scene, the same verdicts."""
    world_from_camera = np.array([[1, 0, 0, 0.3], [0, -1, 0, 0.2], [0, 0, -1, 0.8], [0, 0, 0, 1]], np.float64)
    camera_from_world = np.linalg.inv(world_from_camera)
    config = RefineConfig(
        workspace=Workspace((-0.1, -0.1, 0.0), (0.1, 0.1, 0.1)),
        approach=ApproachCone(angle=45),
        support=Support(clearance=0.005),
    )
    rng = np.random.default_rng(1)
    grasps = grasps_at(rng.uniform([-0.15, -0.15, 0.02], [0.15, 0.15, 0.08], (300, 3)))
    expected, in_world = refine_grasps(grasps, SCENE, config)
    seen = SCENE @ camera_from_world[:3, :3].T.astype(np.float32) + camera_from_world[:3, 3].astype(
        np.float32
    )
    got, refinement = refine_grasps(
        grasps.transformed(camera_from_world), seen, config, world_from_camera=world_from_camera
    )
    assert refinement.removed["workspace"] == in_world.removed["workspace"] > 0
    assert refinement.removed["approach cone"] == in_world.removed["approach cone"]
    assert len(got) > 0 and abs(len(got) - len(expected)) <= 2  # rounding decides points at faces
    assert refine_grasps(grasps.transformed(camera_from_world), seen, config)[1].kept == 0
    for broken in (np.eye(3), 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(ValueError, match="world_from_camera: expected"):
            refine_grasps(grasps, SCENE, config, world_from_camera=broken)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([0, 1, 20, 200]),
    scene=st.sampled_from(["box", "nothing", "one point"]),
    limit=st.sampled_from([None, 1, 3]),
    gripper=st.sampled_from(list(GRIPPERS)),
    min_score=st.sampled_from([None, 0.5, math.inf]),
    support=st.sampled_from([None, Support()]),
)
def test_every_grasp_is_kept_or_counted_once(
    seed: int,
    count: int,
    scene: str,
    limit: int | None,
    gripper: str,
    min_score: float | None,
    support: Support | None,
) -> None:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((count, 3, 3)))
    rotation[:, :, 2] *= np.linalg.det(rotation)[:, None] if count else 1
    grasps = replace(
        grasps_at(rng.uniform([-0.05, -0.05, 0], [0.05, 0.05, 0.1], (count, 3)), width=0.06),
        rotation=rotation.astype(np.float32),
        score=np.round(rng.uniform(size=count), 1).astype(np.float32),
        object_id=rng.integers(1, 4, count).astype(np.int32),
    )
    points = {"box": SCENE, "nothing": SCENE[:0], "one point": SCENE[:1]}[scene]
    config = RefineConfig(gripper_preset(gripper), min_score, support=support, max_per_object=limit)
    kept, refinement = refine_grasps(grasps, points, config)
    assert tuple(refinement.removed) == REASONS
    assert refinement.total == count == refinement.kept + sum(refinement.removed.values())
    assert refinement.kept == len(kept) == sum(refinement.kept_by_object.values())
    for reason in REASONS:
        of_objects = sum(counts[reason] for counts in refinement.removed_by_object.values())
        assert of_objects == refinement.removed[reason]
    for object_id, counts in refinement.removed_by_object.items():
        assert (
            sum(counts.values()) + refinement.kept_by_object[object_id]
            == (grasps.object_id == object_id).sum()
        )
        assert limit is None or refinement.kept_by_object[object_id] <= limit
    assert (np.diff(kept.score) <= 0).all()
    if scene != "box":
        assert len(kept) == 0
    if not len(kept):
        assert refinement.explain()[-1].startswith("no grasp is left: ")


def test_when_nothing_is_left_the_result_says_why() -> None:
    grasps = grasps_at([[0, 0, 0.2], [0.018, 0, 0.06], [0.018, 0.001, 0.06]], object_id=[4, 5, 5])
    kept, refinement = refine_grasps(grasps, SCENE)
    assert len(kept) == 0
    assert refinement.explain() == (
        "object 4: all 1 grasps removed: 1 empty",
        "object 5: all 2 grasps removed: 2 finger collision",
        "no grasp is left: all 3 grasps removed: 1 empty, 2 finger collision",
    )


def test_per_object_limit_keeps_the_best_of_each() -> None:
    rows = [[0, y, 0.06] for y in (-0.025, 0.0, 0.025, 0.0)]
    grasps = grasps_at(rows, score=[0.1, 0.9, 0.5, 0.7], object_id=[1, 1, 1, 2])
    kept, refinement = refine_grasps(grasps, SCENE, RefineConfig(max_per_object=1, nms_distance=0.01))
    np.testing.assert_array_equal(kept.score, np.array([0.9, 0.7], np.float32))
    assert refinement.removed["per-object limit"] == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 60]), st.booleans())
def test_suppression_properties(seed: int, count: int, across: bool) -> None:
    """Idempotent, best first, no two alike left, every dropped one like a better kept one."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((count, 3, 3)) + 3 * np.eye(3))
    rotation[:, :, 2] *= np.linalg.det(rotation)[:, None] if count else 1
    grasps = replace(
        grasps_at(rng.uniform(0, 0.05, (count, 3))),
        rotation=rotation.astype(np.float32),
        score=np.round(rng.uniform(size=count), 1).astype(np.float32),
        object_id=rng.integers(1, 3, count).astype(np.int32),
    )
    order = non_maximum_suppression(grasps, across_objects=across)
    kept = grasps[order]
    assert (np.diff(kept.score) <= 0).all()
    again = non_maximum_suppression(kept, across_objects=across)
    np.testing.assert_array_equal(again, np.arange(len(kept)))

    def alike(i: int, j: int) -> bool:
        a, b = (grasps.rotation[k].astype(np.float64) for k in (i, j))
        angles = [
            math.degrees(math.acos(np.clip((np.trace(a.T @ b @ flip) - 1) / 2, -1, 1)))
            for flip in (np.eye(3), np.diag([1, -1, -1]))
        ]
        near = np.linalg.norm(grasps.translation[i] - grasps.translation[j]) < 0.03
        return near and min(angles) < 30 and (across or grasps.object_id[i] == grasps.object_id[j])

    place = {int(g): n for n, g in enumerate(rank(grasps))}
    chosen = set(order.tolist())
    for i in range(count):
        better = [j for j in chosen if place[j] < place[i]]
        assert any(alike(i, j) for j in better) == (i not in chosen)


def test_scores_must_be_numbers() -> None:
    with pytest.raises(ValueError, match="1 NaN"):
        refine_grasps(grasps_at([0, 0, 0.06], score=[np.nan]), SCENE)
    with pytest.raises(ValueError, match="1 NaN"):
        rank(grasps_at([0, 0, 0.06], score=[np.nan]))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_score": math.nan}, {"approach_distance": -0.1}, {"visible_stride": 0}, {"nms_distance": -1.0},
        {"nms_angle": 200.0}, {"max_per_object": 0},
    ],
    ids=lambda s: next(iter(s)),
)  # fmt: skip
def test_configurations_that_mean_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RefineConfig(**settings)  # type: ignore[arg-type]


def test_constraints_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: Workspace((0, 0, 0), (1, -1, 1)), lambda: Workspace((0, 0, math.nan), (1, 1, 1)),
        lambda: ApproachCone((0, 0, 0)), lambda: ApproachCone(angle=-1), lambda: Support((0, 0, 0)),
        lambda: Support(offset=math.inf), lambda: gripper_preset("hook"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            make()


def test_presets_are_the_published_numbers() -> None:
    assert ROBOTIQ_2F85.hand.max_opening == 0.085 and FRANKA.hand.max_opening == 0.08
    default = gripper_preset("zerograsp").hand
    assert (default.finger_thickness, default.finger_height, default.finger_base) == (0.01, 0.02, 0.02)
    assert math.isinf(default.max_opening)


def test_visible_points_are_every_fifth_pixel() -> None:
    rng = np.random.default_rng(2)
    depth = rng.uniform(300, 900, (13, 17)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.4] = 0
    depth[0, 0], depth[0, 5], depth[0, 10], depth[0, 15] = np.nan, np.inf, 10, -np.inf
    k = np.array([[60, 0, 8.25], [0, 62, 6.5], [0, 0, 1]], np.float32)
    expected = []
    for pixel in range(0, depth.size, 5):
        v, u = divmod(pixel, 17)
        z = float(depth[v, u])
        if math.isfinite(z) and z > 10:
            expected.append([(u - 8.25) / 60 * z, (v - 6.5) / 62 * z, z])
    np.testing.assert_allclose(visible_points(depth, k), np.array(expected) / 1000, rtol=1e-5, atol=1e-6)
    assert visible_points(np.zeros((4, 4), np.float32), k).shape == (0, 3)


def test_visible_points_are_the_published_ones(
    golden_collision: dict[str, np.ndarray], frames_dir: Path, golden: dict[str, np.ndarray]
) -> None:
    if str(golden["case"]) != "000":
        pytest.skip("the recorded points are those of frame 000")
    import cv2

    depth = cv2.imread(str(frames_dir / "000.depth.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
    recorded = golden_collision["depth_points"]
    got = visible_points(depth, golden["K"])
    np.testing.assert_allclose(got, recorded[recorded[:, 2] > 0.01], atol=2e-6)


def reconstruction(object_id: int, points: np.ndarray, grasps: Grasps) -> ObjectReconstruction:
    """Points in m; what refinement does not read is empty."""
    none = np.empty((0, 3), np.float32)
    return ObjectReconstruction(
        object_id, 0, points * 1000, none, none[:, 0], none.astype(np.int32), none, 2.5, grasps
    )


def test_all_objects_of_the_scene_collide() -> None:
    """The hand that would fit around the box touches its neighbour, which only the reconstruction knows."""
    neighbour = BOX + np.array([0.05, 0, 0], np.float32)
    grasp = grasps_at([0, 0, 0.06])
    objects = [reconstruction(1, BOX, grasp), reconstruction(2, neighbour, Grasps.empty())]
    assert len(scene_points(objects, TABLE)) == len(BOX) * 2 + len(TABLE)
    alone, _ = refine_objects(objects[:1], TABLE)
    assert len(alone[0].grasps) == 1
    both, refinement = refine_objects(objects, TABLE)
    assert [len(item.grasps) for item in both] == [0, 0]
    assert refinement.removed["finger collision"] == 1
    assert refinement.explain()[1] == "object 2: no grasp was predicted"


def test_pipeline_refines_when_asked(
    tiny_path: Path, pipeline: Pipeline, frame: Frame, same_result: Callable[[Result, Result], None]
) -> None:
    raw = pipeline(frame)
    assert raw.refinement is None and "refine" not in raw.timings and raw.notes == ()
    config = RefineConfig(max_per_object=5)
    refining = Pipeline(load_bundle(tiny_path), threads=2, refine=config)
    result = refining(frame)
    assert "refine" in result.timings and result.refinement is not None
    assert result.refinement.total == len(raw.grasps)
    assert result.refinement.kept == len(result.grasps) == sum(len(item.grasps) for item in result.objects)
    assert result.notes == result.refinement.explain()
    expected, refinement = refine_objects(raw.objects, visible_points(frame.depth, frame.intrinsics), config)
    assert refinement == result.refinement
    same_result(replace(raw, objects=expected), result)
    nowhere = replace(config, workspace=Workspace((5, 5, 5), (6, 6, 6)))
    refining.refine = nowhere
    emptied = refining(frame)
    assert len(emptied.grasps) == 0
    assert (
        emptied.notes[-1]
        == f"no grasp is left: all {len(raw.grasps)} grasps removed: {len(raw.grasps)} workspace"
    )
