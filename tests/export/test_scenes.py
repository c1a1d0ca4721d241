"""Training scenes: deterministic, disjoint by split, valid, and generated in a way that survives failures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="scenes need the extra `sim`")
pytest.importorskip("scipy", reason="scenes need the extra `sim`")
pytest.importorskip("skimage", reason="meshes of compound shapes need the extra `mesh`")
pytest.importorskip("torch", reason="grasp labels need the extra `export`")

from zerograsp_edge.export.training import generate as generating
from zerograsp_edge.export.training.contact_sheet import contact_sheet
from zerograsp_edge.export.training.sample import SceneSample, View
from zerograsp_edge.export.training.scenes import make_views
from zerograsp_edge.runtime.simulation import scenes
from zerograsp_edge.runtime.simulation.render import RenderError
from zerograsp_edge.runtime.simulation.scenes import SCENE_KINDS, SPLITS, attempt_world, make_world
from zerograsp_edge.runtime.simulation.sensor import FEWEST_PIXELS
from zerograsp_edge.runtime.simulation.settle import SettleError, penetration
from zerograsp_edge.runtime.simulation.shapes.families import HELD_OUT, TRAINED
from zerograsp_edge.runtime.simulation.solids import SolidError
from zerograsp_edge.runtime.simulation.world import World


@pytest.fixture(scope="module", params=SCENE_KINDS)
def world(request: pytest.FixtureRequest) -> World:
    return make_world(3, "test_trained", request.param)


@pytest.fixture(scope="module")
def views(world: World) -> list[View]:
    try:
        return make_views(world, 3, 3, "test_trained")
    except RenderError as error:
        pytest.skip(str(error))


def single_seeds(count: int) -> list[int]:
    """Seeds of the cheapest scenes."""
    return [seed for seed in range(1000) if scenes.scene_kind_of(seed, "val") == "single"][:count]


def same_views(a: list[View] | tuple[View, ...], b: list[View] | tuple[View, ...]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        for name in ("rgb", "depth", "mask", "intrinsics", "camera_pose", "visible_fraction"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_worlds_are_what_was_asked(world: World) -> None:
    assert 1 <= len(world.objects) <= 12
    assert {item.family for item in world.objects} <= set(TRAINED)
    assert penetration(world, samples=4000).max() < 2.2
    extents = [2 * item.shape.half_extents.max() for item in world.objects]
    assert min(extents) > 19 and max(extents) < 251


def test_views_show_objects_from_working_distance(world: World, views: list[View]) -> None:
    middle = np.mean([item.pose[:3, 3] for item in world.objects], axis=0)
    for view in views:
        rotation, eye = view.camera_pose[:3, :3], view.camera_pose[:3, 3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert 200 < np.linalg.norm(eye - middle) < 1250
        assert world.support_distance(eye[None])[0] > 50 and rotation[2, 2] < -0.3
        assert view.rgb.shape == (480, 640, 3) and view.depth.shape == view.mask.shape == (480, 640)
        ids = [object_id for object_id in np.unique(view.mask) if object_id]
        assert ids and max(ids) <= len(world.objects)
        for object_id in ids:
            assert (view.depth[view.mask == object_id] > 0).sum() >= FEWEST_PIXELS
        assert view.visible_fraction.shape == (len(world.objects),)
        assert (view.visible_fraction >= 0).all() and (view.visible_fraction <= 1).all()
        assert (view.visible_fraction[np.array(ids) - 1] > 0).mean() >= 0.5


def test_measured_points_lie_on_the_masked_objects(world: World, views: list[View]) -> None:
    """Depth, mask, intrinsics, camera pose and object poses speak of the same scene."""
    for view in views:
        for item in world.objects:
            v, u = np.nonzero((view.mask == item.object_id) & (view.depth > 0))
            if len(v) < 200:
                continue
            rays = np.stack([u, v, np.ones(len(u))], axis=1) @ np.linalg.inv(view.intrinsics.astype(float)).T
            points = rays * view.depth[v, u, None]
            points = points @ view.camera_pose[:3, :3].T + view.camera_pose[:3, 3]
            z = np.median(view.depth[v, u])
            # 0.12 pixels of disparity and a scale error of 0.6 % are the most that is drawn
            assert np.median(np.abs(item.distance(points))) < 0.12 * z**2 / (460 * 50) + 0.006 * z


def test_same_seed_same_scene_other_seed_other_scene() -> None:
    first, second = make_world(11, "train", "clutter"), make_world(11, "train", "clutter")
    assert [item.family for item in first.objects] == [item.family for item in second.objects]
    np.testing.assert_array_equal(
        [item.pose for item in first.objects], [item.pose for item in second.objects]
    )
    try:
        same_views(make_views(first, 11, 1), make_views(second, 11, 1))
    except RenderError as error:
        pytest.skip(str(error))


def test_splits_are_disjoint() -> None:
    assert not set(TRAINED) & set(HELD_OUT)
    draws = {
        (split, seed): scenes.generator(seed, split, 0, scenes.WORLD).random(4).tobytes()
        for split in SPLITS
        for seed in range(200)
    }
    assert len(set(draws.values())) == len(draws)
    for seed in range(3):
        unseen = make_world(seed, "test_unseen", "single")
        assert {item.family for item in unseen.objects} <= set(HELD_OUT)


def test_all_kinds_are_drawn() -> None:
    kinds = [scenes.scene_kind_of(seed, "train") for seed in range(400)]
    assert {kind: kinds.count(kind) > 20 for kind in SCENE_KINDS} == dict.fromkeys(SCENE_KINDS, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "testing"), "train, val, test_trained, test_unseen, got 'testing'"),
        ((-1, "train"), "must not be negative, got -1"),
        ((0, "train", "tower"), "single, clutter, pile, shelf, got 'tower'"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        make_world(*arguments)


def test_intrinsics_are_those_of_a_realsense() -> None:
    drawn = [scenes.draw_intrinsics(np.random.default_rng(seed)) for seed in range(100)]
    focal = np.array([k[0, 0] for k in drawn])
    assert 450 < focal.min() < 500 and 600 < focal.max() < 650
    assert all(abs(k[0, 0] / k[1, 1] - 1) < 0.02 and k[0, 1] == 0 for k in drawn)


def test_generation_resumes_and_is_the_same_in_another_process(tmp_path: Path) -> None:
    kept, made = single_seeds(2)
    generating.scene_path(tmp_path, "val", kept).write_bytes(b"there already")
    steps: list[int] = []
    try:
        result = generating.generate(
            tmp_path, "val", [kept, made], 2, 1, progress=lambda g: steps.append(g.made)
        )
    except RenderError as error:
        pytest.skip(str(error))
    assert (result.made, result.skipped, result.failed) == (1, 1, {}) and steps == [1]
    assert generating.scene_path(tmp_path, "val", kept).read_bytes() == b"there already"
    path = generating.scene_path(tmp_path, "val", made)
    assert path.name == f"val-{made:06d}.npz"
    loaded, here = SceneSample.load(path), generating.generate_scene(made, "val", 2)
    assert loaded.seed == made and loaded.support_kind == here.support_kind
    for one, other in zip(loaded.objects, here.objects, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_allclose(one.grasps, other.grasps, atol=2e-3)
        np.testing.assert_array_equal(one.pose, other.pose)
    for view, again in zip(loaded.views, here.views, strict=True):
        np.testing.assert_array_equal(view.mask, again.mask)
        np.testing.assert_allclose(view.depth, again.depth, atol=1 / 16)
    sheet = contact_sheet([loaded], views_per_scene=2)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 5 * 320 and sheet.shape[0] % 2 == 0
    upper, lower = np.split(sheet, 2)
    for tile in np.split(upper, 5, axis=1) + np.split(lower, 5, axis=1):
        assert tile.std() > 5
    for one, other in pairwise(np.split(upper, 5, axis=1)):
        assert (one != other).any()


def test_failing_attempts_are_retried_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def attempt(seed: int, split: str, views: int, kind: str | None, number: int, labels: bool) -> str:
        attempts.append(number)
        if number < 2:
            raise SettleError("all fell off")
        return "a scene"

    monkeypatch.setattr(generating, "_attempt_scene", attempt)
    assert generating._generate_counted(5, "train", 1, None, True) == ("a scene", 2)
    assert attempts == [0, 1, 2]
    monkeypatch.setattr(generating, "MOST_ATTEMPTS", 2)
    with pytest.raises(scenes.SceneError, match=r"train seed 5 in 2 attempts .*SettleError: all fell off"):
        generating.generate_scene(5, "train", 1)


def test_a_machine_without_opengl_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(*_: object) -> None:
        raise RenderError("no offscreen OpenGL")

    monkeypatch.setattr(generating, "_attempt_scene", attempt)
    with pytest.raises(RenderError):
        generating.generate_scene(0, "train", 1)


def test_an_attempt_whose_shape_has_no_closed_mesh_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[int] = []

    def fails_once(*arguments: object, **_: object) -> World:
        attempts.append(int(str(arguments[3])))
        if len(attempts) == 1:
            raise SolidError("an open mesh")
        return attempt_world(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scenes, "attempt_world", fails_once)
    world = scenes.make_world(3, "train", "single")
    assert attempts == [0, 1] and len(world.objects) == 1
