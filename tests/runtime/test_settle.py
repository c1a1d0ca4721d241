"""Physics of worlds: the right bodies, and objects that lie still, apart and where they should."""

from __future__ import annotations

import numpy as np
import pytest

from zerograsp_edge.runtime.simulation import settle as settling
from zerograsp_edge.runtime.simulation.shapes import Box, Capsule, Cylinder, RoundedBox, Shape, Sphere, Torus
from zerograsp_edge.runtime.simulation.supports import make_support
from zerograsp_edge.runtime.simulation.world import SUPPORT_KINDS, SupportBox, World, WorldObject

mujoco = pytest.importorskip("mujoco", reason="physics needs the extra `sim`")
pytest.importorskip("scipy", reason="settling needs the extra `sim`")

from zerograsp_edge.runtime.simulation.physics import body_name, object_poses, world_spec  # noqa: E402

TABLE = SupportBox(np.array([0.0, 0, -20]), np.array([400.0, 400, 20]), np.eye(3))
TURNED = np.array([[0.0, -1, 0], [0.6, 0, -0.8], [0.8, 0, 0.6]])


def placed(
    object_id: int, shape: Shape, position: tuple[float, ...], rotation: np.ndarray | None = None
) -> WorldObject:
    pose = np.eye(4)
    pose[:3, 3] = position
    if rotation is not None:
        pose[:3, :3] = rotation
    return WorldObject(object_id, "test", shape, pose, density=500.0)


def world_of(*objects: WorldObject) -> World:
    return World("table", (TABLE,), objects, 0)


def random_objects(rng: np.random.Generator, count: int) -> list[WorldObject]:
    objects = []
    for _ in range(count):
        a, b, c = (float(x) for x in rng.uniform(15, 45, 3))
        shapes: list[Shape] = [
            Box((a, b, c)),
            Cylinder(a, b),
            Sphere(a),
            Torus(a + 0.3 * b, 0.3 * min(a, b)),
            RoundedBox((a, b, c), 0.4 * min(a, b, c)),
            Capsule(min(a, b), c),
        ]
        objects.append(WorldObject(0, "test", shapes[int(rng.integers(6))], np.eye(4)))
    return objects


@pytest.fixture(scope="module", params=[(kind, seed) for kind in SUPPORT_KINDS for seed in (0, 1)], ids=str)
def settled(request: pytest.FixtureRequest) -> World:
    kind, seed = request.param
    rng = np.random.default_rng((seed, SUPPORT_KINDS.index(kind)))
    return settling.settle(rng, kind, random_objects(rng, 12), spread=140, seed=seed)


def test_bodies_have_the_mass_and_inertia_of_the_solid() -> None:
    model = world_spec(world_of(placed(3, Box((30, 20, 10)), (0, 0, 100), TURNED))).compile()
    body = model.body(body_name(3))
    mass = 500 * 0.06 * 0.04 * 0.02
    assert body.mass[0] == pytest.approx(mass, rel=1e-6)
    expected = mass / 3 * np.array([0.02**2 + 0.01**2, 0.03**2 + 0.01**2, 0.03**2 + 0.02**2])
    np.testing.assert_allclose(np.sort(body.inertia), np.sort(expected), rtol=1e-6)


def test_poses_come_back_and_objects_fall_in_metres() -> None:
    world = world_of(
        placed(1, Box((30, 20, 10)), (50, -20, 300), TURNED), placed(2, Sphere(20), (-90, 0, 500))
    )
    model = world_spec(world, timestep=0.001).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(
        object_poses(model, data, world), [item.pose for item in world.objects], atol=1e-9
    )
    mujoco.mj_step(model, data, 100)
    mujoco.mj_forward(model, data)
    fallen = 500 - object_poses(model, data, world)[1, 2, 3]
    assert fallen == pytest.approx(9810 * 0.1**2 / 2, rel=0.02)


def test_fixed_objects_stay() -> None:
    world = world_of(placed(1, Sphere(20), (0, 0, 200)))
    model = world_spec(world, free=False).compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 50)
    assert model.nv == 0
    np.testing.assert_allclose(object_poses(model, data, world)[0], world.objects[0].pose, atol=1e-9)


def test_a_stack_stands_and_sinks_by_less_than_a_tenth_of_a_millimetre() -> None:
    world = world_of(*(placed(i + 1, Box((30, 30, 15)), (0, 0, 15 + 30 * i)) for i in range(5)))
    model = world_spec(world).compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 500)
    heights = object_poses(model, data, world)[:, 2, 3]
    np.testing.assert_allclose(np.diff(heights, prepend=-15), 30, atol=0.1)


def test_settled_objects_stay_where_they_are(settled: World) -> None:
    model = world_spec(settled, timestep=0.002).compile()
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 250)
    mujoco.mj_forward(model, data)
    for item, pose in zip(settled.objects, object_poses(model, data, settled), strict=True):
        corners = item.shape.half_extents * np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
        moved = corners @ (pose[:3, :3] - item.pose[:3, :3]).T + pose[:3, 3] - item.pose[:3, 3]
        assert np.linalg.norm(moved, axis=1).max() < 1.5


def test_settled_objects_do_not_share_space(settled: World) -> None:
    for item in settled.objects:
        vertices = np.asarray(item.shape.mesh().vertices) @ item.pose[:3, :3].T + item.pose[:3, 3]
        assert settled.support_distance(vertices).min() > -2.0
        for other in settled.objects:
            if other is not item:
                assert other.distance(vertices).min() > -2.0


def test_settled_objects_are_carried_by_something(settled: World) -> None:
    for item in settled.objects:
        points = settling.surface_points(item, 4000, seed=1)
        others = [other.distance(points).min() for other in settled.objects if other is not item]
        assert min(settled.support_distance(points).min(), *others) < 1.0


def test_settled_objects_are_within_reach_and_numbered(settled: World) -> None:
    assert len(settled.objects) >= 6
    assert [item.object_id for item in settled.objects] == list(range(1, len(settled.objects) + 1))
    for item in settled.objects:
        points = settling.surface_points(item, 500, seed=1)
        assert np.abs(points[:, :2]).max() < settling.REACH_MM + 1
        assert points[:, 2].min() > -1 and points[:, 2].max() < settling.TOP_MM + 1


def test_same_seed_same_world() -> None:
    def poses() -> np.ndarray:
        rng = np.random.default_rng(5)
        world = settling.settle(rng, "bin", random_objects(rng, 6), spread=100)
        return np.array([item.pose for item in world.objects])

    np.testing.assert_array_equal(poses(), poses())


def test_nothing_left_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "REACH_MM", 1.0)
    rng = np.random.default_rng(0)
    with pytest.raises(settling.SettleError, match=r"2 objects on a table \(seed 7\)"):
        settling.settle(rng, "table", random_objects(rng, 2), spread=100, seed=7)


def test_penetration_measures_overlap() -> None:
    world = world_of(
        placed(1, Sphere(30), (0, 0, 29)),
        placed(2, Sphere(30), (55, 0, 40)),
        placed(3, Sphere(10), (0, 200, 50)),
    )
    depth = settling.penetration(world, samples=20000)
    assert depth[0, -1] == pytest.approx(1, abs=0.05)
    gap = np.hypot(55, 11)
    assert depth[0, 1] == pytest.approx(60 - gap, abs=0.2) and depth[1, 0] == pytest.approx(60 - gap, abs=0.2)
    assert (depth[2] == 0).all() and (depth[:, 2] == 0).all()


@pytest.mark.parametrize("kind", SUPPORT_KINDS)
def test_supports_carry_at_zero_and_leave_room(kind: str) -> None:
    for seed in range(10):
        support = make_support(kind, np.random.default_rng(seed))
        world = World(kind, support, (), seed)
        middle = np.array([[0.0, 0, 5], [0, 0, -1], [60, 60, 30], [-60, 60, 100]])
        distance = world.support_distance(middle)
        assert distance[0] == pytest.approx(5) and distance[1] < 0 and (distance[2:] > 25).all()


def test_unknown_support_is_named() -> None:
    with pytest.raises(ValueError, match="table, bin, shelf, got 'floor'"):
        make_support("floor", np.random.default_rng(0))
