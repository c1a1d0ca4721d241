"""Grasp labels: analytic cases, and an independent check that no labelled gripper touches anything."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="grasp labels are made on torch (extra 'export')")
pytest.importorskip("scipy", reason="grasp labels need scipy (extra 'sim')")

from zerograsp_edge.export.training.clearance import Poses, Surroundings  # noqa: E402
from zerograsp_edge.export.training.contacts import (  # noqa: E402
    antipodal_pairs,
    friction_quality,
    pad_contact,
)
from zerograsp_edge.export.training.distance_field import DistanceField  # noqa: E402
from zerograsp_edge.export.training.grasps import label_world  # noqa: E402
from zerograsp_edge.export.training.sample import (  # noqa: E402
    APPROACH,
    CLOSING,
    DEPTH,
    GRASPNESS,
    QUALITY,
    WIDTH,
)
from zerograsp_edge.runtime.grasp.decode import decode_grasps  # noqa: E402
from zerograsp_edge.runtime.simulation.shapes import (  # noqa: E402
    Box,
    Capsule,
    Cylinder,
    RoundedBox,
    Shape,
    Sphere,
    Torus,
)
from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples  # noqa: E402
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject  # noqa: E402

TABLE = SupportBox(np.array([0, 0, -20.0]), np.array([500, 500, 20.0]), np.eye(3))
SPACING_MM = 2.0


def pose_at(x: float, y: float, z: float, turn: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = x, y, z
    return pose


def standing(
    *shapes: tuple[Shape, float, float], support: tuple[SupportBox, ...] = (TABLE,), turn: float = 0.0
) -> World:
    objects = tuple(
        WorldObject(i + 1, type(shape).__name__, shape, pose_at(x, y, shape.half_extents[2], turn))
        for i, (shape, x, y) in enumerate(shapes)
    )
    return World("table", support, objects, 0)


def label(world: World, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per object points, normals and labels."""
    rng = np.random.default_rng(seed)
    surfaces = [surface_samples(item.shape, SPACING_MM, rng) for item in world.objects]
    return [(*s, rows) for s, rows in zip(surfaces, label_world(world, surfaces, rng), strict=True)]


def test_cube_is_grasped_across_its_faces() -> None:
    points, normals, rows = label(standing((Box((20, 20, 20)), 0, 0)))[0]
    top = (normals[:, 2] > 0.99) & (rows[:, GRASPNESS] >= 0.5)
    assert top.sum() > 20
    straight = top & (rows[:, APPROACH.start + 2] > 0.99)
    assert straight.sum() > 0.75 * top.sum()  # labels follow the surface
    across = np.abs(rows[straight, CLOSING]).max(axis=1)
    # Off a face's normal by an angle the cube is wider: the labels' grasps lie within 15 degrees.
    assert (across > np.cos(np.radians(15))).mean() > 0.95
    aligned = straight.nonzero()[0][across > 0.999]
    assert len(aligned) > 10
    opening = rows[aligned, WIDTH] * 100
    assert opening.min() >= 40 + 2 * 5.9  # the cube and the clearance on either side
    assert opening.max() <= 40 + 2 * 6 + 2 * 3.5  # and what the point may lie off the middle
    tips = points[aligned, 2] - rows[aligned, DEPTH] * 40
    assert tips.min() >= -20 + 1  # above the table
    assert np.abs(points[aligned] @ np.eye(3)[:2].T).min(axis=1).max() <= 4  # centred across the opening
    assert (rows[aligned, QUALITY] > 0.9).all()


def test_nothing_reaches_the_bottom_of_what_stands_on_a_table() -> None:
    _, normals, rows = label(standing((Box((20, 20, 20)), 0, 0)))[0]
    assert not rows[normals[:, 2] < -0.99].any()
    assert (rows[rows[:, GRASPNESS] > 0, APPROACH.start + 2] > -0.2).all()


def test_too_wide_for_the_gripper() -> None:
    _, _, rows = label(standing((Sphere(60), 0, 0)))[0]
    assert not rows.any()


def test_wall_takes_the_grasps_beside_it() -> None:
    """A tall bar 8 mm from a wall at +x: no finger fits between, and no gripper comes from there."""
    bar = Box((15, 15, 60))
    wall = SupportBox(np.array([15 + 8 + 10.0, 0, 100]), np.array([10, 300, 150.0]), np.eye(3))
    _, _, alone = label(standing((bar, 0, 0)))[0]
    _, _, beside = label(standing((bar, 0, 0), support=(TABLE, wall)))[0]

    def along_x(rows: np.ndarray, column: slice) -> np.ndarray:
        return rows[rows[:, GRASPNESS] > 0][:, column][:, 0]

    assert (np.abs(along_x(alone, CLOSING)) > 0.9).sum() > 50
    assert (along_x(alone, APPROACH) > 0.7).sum() > 50
    assert (beside[:, GRASPNESS] > 0).sum() > 50
    assert not (np.abs(along_x(beside, CLOSING)) > 0.9).any()
    assert not (along_x(beside, APPROACH) > 0.3).any()


def test_neighbour_takes_the_grasps_beside_it() -> None:
    bar = Box((15, 15, 60))
    _, _, beside = label(standing((bar, 0, 0), (Box((15, 200, 100)), 38, 0)))[0]
    valid = beside[beside[:, GRASPNESS] > 0]
    assert len(valid) > 50
    assert not (np.abs(valid[:, CLOSING][:, 0]) > 0.9).any()


def test_thin_plate_on_the_table_is_held_by_its_rim() -> None:
    points, _, rows = label(standing((RoundedBox((60, 35, 5), 1.5), 0, 0)))[0]
    valid = rows[:, GRASPNESS] > 0
    assert valid.any()
    tips = points[valid, 2] - rows[valid, DEPTH] * 40 * rows[valid, APPROACH.start + 2]
    assert (tips > -5 + 1).all()


@pytest.fixture(scope="module")
def clutter() -> World:
    shapes = (
        (Box((18, 30, 40)), -70.0, 0.0),
        (Cylinder(25, 45), 0.0, 12.0),
        (Torus(40, 9), 85.0, 0.0),
        (Capsule(14, 30), 0.0, -70.0),
    )
    walls = tuple(
        SupportBox(np.array([sign * 150.0, 0, 40]), np.array([3, 200, 40.0]), np.eye(3)) for sign in (-1, 1)
    )
    return standing(*shapes, support=(TABLE, *walls), turn=0.4)


@pytest.fixture(scope="module")
def labelled(clutter: World) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return label(clutter)


def test_labels_are_what_the_format_says(labelled: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    for points, _, rows in labelled:
        assert rows.shape == (len(points), 10)
        assert rows.dtype == np.float32
        valid = rows[:, GRASPNESS] > 0
        assert valid.any()
        assert not rows[~valid].any()
        good = rows[valid]
        assert np.isfinite(good).all()
        np.testing.assert_allclose(np.linalg.norm(good[:, CLOSING], axis=1), 1, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(good[:, APPROACH], axis=1), 1, atol=1e-4)
        np.testing.assert_allclose((good[:, CLOSING] * good[:, APPROACH]).sum(axis=1), 0, atol=1e-3)
        for column in (GRASPNESS, QUALITY, DEPTH, WIDTH):
            assert good[:, column].min() >= 0
            assert good[:, column].max() <= 1
        assert good[:, QUALITY].min() > 0


def test_no_labelled_gripper_touches_anything(
    clutter: World, labelled: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> None:
    """Solid grippers, as the runtime reads the labels, against the exact distances of everything."""
    for item, (points, normals, rows) in zip(clutter.objects, labelled, strict=True):
        signal = np.concatenate([normals, np.zeros((len(points), 1)), rows], axis=1).astype(np.float32)
        grasps = decode_grasps(signal, points, np.full(len(points), item.object_id))
        valid = np.flatnonzero(rows[:, GRASPNESS] > 0)
        for row in np.random.default_rng(0).choice(valid, 60):
            width, depth = grasps.width[row] * 1000, grasps.depth[row] * 1000
            local = np.concatenate([solid(*edges) for edges in gripper_boxes(width, depth)])
            here = local @ grasps.rotation[row].T + grasps.translation[row] * 1000
            there = here @ item.pose[:3, :3].T + item.pose[:3, 3]
            assert clutter.support_distance(there).min() > 0
            for other in clutter.objects:
                assert other.distance(there).min() > 0, f"{item.family} {row} touches {other.family}"


def gripper_boxes(width: float, depth: float) -> list[tuple[tuple[float, float], ...]]:
    """Ranges of x, y, z of the fingers and the palm, as network.md has them."""
    outer = width / 2 + 10
    return [
        ((-20, depth), (width / 2, outer), (-10, 10)),
        ((-20, depth), (-outer, -width / 2), (-10, 10)),
        ((-30, -20), (-outer, outer), (-10, 10)),
    ]


def solid(*ranges: tuple[float, float]) -> np.ndarray:
    axes = [np.linspace(low, high, int(np.ceil((high - low) / 2.5)) + 1) for low, high in ranges]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def test_same_seed_same_labels() -> None:
    world = standing((Cylinder(20, 40), 0, 0))
    np.testing.assert_array_equal(label(world, 3)[0][2], label(world, 3)[0][2])


def test_surfaces_must_be_those_of_the_objects() -> None:
    world = standing((Box((20, 20, 20)), 0, 0))
    with pytest.raises(ValueError, match="one surface per object"):
        label_world(world, [], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"points and normals \(n, 3\)"):
        label_world(world, [(np.zeros((5, 3)), np.zeros((4, 3)))], np.random.default_rng(0))


def test_an_object_without_points_has_no_labels() -> None:
    world = standing((Box((20, 20, 20)), 0, 0))
    (rows,) = label_world(world, [(np.zeros((0, 3)), np.zeros((0, 3)))], np.random.default_rng(0))
    assert rows.shape == (0, 10)


@pytest.mark.parametrize(
    ("friction", "quality"), [(0.0, 1.0), (0.2, 1.0), (0.7, 0.545), (1.2, 1 / 11), (1.31, 0.0)]
)
def test_friction_quality(friction: float, quality: float) -> None:
    assert float(friction_quality(torch.tensor([friction]))[0]) == pytest.approx(quality, abs=1e-3)


@pytest.mark.parametrize("shape", [Box((30, 12, 20)), Cylinder(25, 40), Torus(40, 8), Sphere(20)])
def test_distance_field_is_the_shape(shape: Shape) -> None:
    field = DistanceField.of(shape)
    points = np.random.default_rng(0).uniform(-1.15, 1.15, (4000, 3)) * shape.half_extents
    exact = shape.distance(points)
    near = np.abs(exact) < 8
    found = field.distance(torch.from_numpy(points.astype(np.float32))).numpy()
    assert np.abs(found - exact)[near].max() < 0.8
    assert np.abs(found - exact)[near].mean() < 0.1
    volume = shape.mesh().volume
    assert field.volume == pytest.approx(volume, rel=0.03)
    np.testing.assert_allclose(field.centre_of_mass, 0, atol=0.3)


def test_pairs_of_a_cylinder_are_its_diameters_and_its_ends() -> None:
    shape = Cylinder(20, 35)
    points, normals = (torch.from_numpy(a) for a in surface_samples(shape, 3.0, np.random.default_rng(0)))
    pairs = antipodal_pairs(DistanceField.of(shape), points, normals, np.random.default_rng(0))
    for ends in (pairs.first, pairs.second):
        assert np.abs(shape.distance(ends.numpy())).max() < 0.6
    span = (pairs.second - pairs.first).norm(dim=1)
    assert len(span) > 500
    level = pairs.closing[:, 2].abs() < 0.02
    steep = pairs.closing[:, 2].abs() > 0.999
    assert span[level].min() > 30
    assert span[level].max() < 40.5
    assert (span[steep] - 70).abs().max() < 1


def test_pads_on_a_cube() -> None:
    field = DistanceField.of(Box((20, 15, 20)))
    pose = Poses(
        *(
            torch.tensor([v], dtype=torch.float32)
            for v in ([0, 2.0, 20], [0, 0, -1.0], [0, 1.0, 0], 25.0, 45.0)
        )
    )
    contact = pad_contact(field, pose)
    assert bool(contact.touched[0])
    assert float(contact.upper[0]) == pytest.approx(13, abs=0.3)
    assert float(contact.lower[0]) == pytest.approx(-17, abs=0.3)
    assert float(contact.friction[0]) < 0.05
    assert float(contact.z[0]) == pytest.approx(0, abs=0.5)
    assert 0 < float(contact.x[0]) < 25


def test_surroundings_know_one_millimetre_from_the_table() -> None:
    world = standing((Box((20, 20, 20)), 0, 0))
    around = Surroundings.of(world, [DistanceField.of(world.objects[0].shape)], 0)

    def free(depth: float, width: float = 60.0) -> bool:
        pose = Poses(
            *(
                torch.tensor([v], dtype=torch.float32)
                for v in ([0, 0, 20.0], [0, 0, -1.0], [0, 1.0, 0], depth, width)
            )
        )
        return bool(around.free(pose)[0])

    assert free(38.0)
    assert not free(39.0)
    assert free(30.0, 46.0)
    assert not free(30.0, 38.0)
