"""The reconstruction benchmark on simulated frames: a perfect method, one that drops objects, one that fails."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trimesh.sample import sample_surface

pytest.importorskip("scipy", reason="needs the extra `sim`")

from zerograsp_edge.export.training.metrics import LEVELS, Surface
from zerograsp_edge.export.training.sample import GRASP_CHANNELS, ObjectSurface, SceneSample, View
from zerograsp_edge.export.training.truth import asked_objects, true_surfaces, visible_shares
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def benchmark_folder() -> Iterator[None]:
    """The benchmarks are scripts: their folder is where they import from."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def simulated_sample(seed: int, objects: int = 4) -> SceneSample:
    """The simulated camera's first frame with its truth, in the form of a training scene."""
    frame, truth = SimulatedCamera(seed, objects, 320, 240, depth_noise=True).render(0)
    assert frame.mask is not None
    surfaces = []
    for item in truth.objects:
        mesh = item.source.shape.mesh()
        points, faces = sample_surface(mesh, int(mesh.area) // 4, seed=seed)
        surfaces.append(
            ObjectSurface(
                item.object_id,
                type(item.source.shape).__name__.lower(),
                item.source.pose,
                points.astype(np.float32),
                mesh.face_normals[faces].astype(np.float32),
                np.zeros((len(points), GRASP_CHANNELS), np.float32),
            )
        )
    view = View(
        frame.rgb,
        frame.depth,
        frame.mask.astype(np.uint8),
        frame.intrinsics,
        truth.camera_pose,
        np.array([item.visible_fraction for item in truth.objects], np.float32),
    )
    return SceneSample(seed, "table", tuple(surfaces), (view,))


@pytest.fixture(scope="module")
def sample() -> SceneSample:
    return simulated_sample(3)


def test_a_perfect_method_beats_all_references(sample: SceneSample) -> None:
    from parts.reconstruction import OURS, TRUTH, Prediction, score_scene
    from parts.reconstruction_table import ASKED, best_reference, cells, figures

    truth = true_surfaces(sample, sample.views[0])
    score = score_scene(sample, "test_trained", {OURS: lambda *_: Prediction(truth)})
    summaries = cells(score.records)
    assert summaries["test_trained", "all", OURS]["chamfer"] == 0
    assert best_reference(summaries, "test_trained", "all", "chamfer")[1] > 2
    assert score.penetration[OURS] == score.penetration[TRUTH]
    assert not score.reasons and not score.not_asked
    found = {f["name"]: f for f in figures([score])}
    assert found["trained families: columns in which a reference is as good or better"]["value"] == 0
    chamfer = found["trained families, all (4): chamfer"]
    assert (chamfer["value"], chamfer["asked"]) == (0, ASKED["test_trained"]["chamfer"])


def test_the_truth_lies_where_the_depth_was_measured(sample: SceneSample) -> None:
    from parts.reconstruction import VISIBLE, references

    view = sample.views[0]
    asked = [o.object_id for o in sample.objects]
    truth = true_surfaces(sample, view)
    for i, surface in references(view, asked)[VISIBLE].surfaces.items():
        distance, _ = truth[i].tree.query(surface.points)
        assert np.median(distance) < 1.5


def test_a_dropped_object_is_the_worst_and_is_reported(sample: SceneSample) -> None:
    from parts.reconstruction import OURS, Prediction, score_scene
    from parts.reconstruction_table import cells, figures, markdown

    truth = true_surfaces(sample, sample.views[0])
    dropped = sample.objects[1].object_id
    kept = {i: s for i, s in truth.items() if i != dropped}
    predict = lambda *_: Prediction(kept, {dropped: "outside the cube"})  # noqa: E731
    score = score_scene(sample, "test_trained", {OURS: predict})
    assert score.reasons == [(OURS, dropped, "outside the cube")]
    summary = cells(score.records)["test_trained", "all", OURS]
    assert (summary.count, summary.missed) == (4, 1)
    assert summary["f1_10"] == 75
    diagonal = np.linalg.norm(np.ptp(truth[dropped].points, axis=0))
    assert summary["chamfer"] == pytest.approx(diagonal / 4)
    found = {f["name"]: f["value"] for f in figures([score])}
    assert found["trained families: objects without reconstruction, of 4"] == 1
    assert "| all | 4 | ours |" in markdown(score.records)


def test_a_refused_frame_misses_all_objects_with_the_message(sample: SceneSample) -> None:
    from parts.reconstruction import OURS, run_pipeline, score_scene

    from zerograsp_edge.runtime.pipeline import LimitError

    def refuse(frame: object) -> None:
        raise LimitError("too large")

    score = score_scene(sample, "test_unseen", {OURS: run_pipeline(refuse)})  # type: ignore[arg-type]
    assert [reason for _, _, reason in score.reasons] == ["too large"] * 4
    assert all(r.metrics.missed for r in score.records if r.method == OURS)


def test_hidden_objects_are_asked_of_nobody_and_counted(sample: SceneSample) -> None:
    from parts.reconstruction import (
        OURS,
        Prediction,
        score_scene,
    )
    from parts.reconstruction_table import figures

    view = sample.views[0]
    mask = np.where(view.mask == sample.objects[2].object_id, 0, view.mask)
    fraction = view.visible_fraction.copy()
    fraction[0] = 0.01
    less = View(view.rgb, view.depth, mask, view.intrinsics, view.camera_pose, fraction)
    scene = SceneSample(sample.seed, sample.support_kind, sample.objects, (less,))
    asked, others = asked_objects(less.mask, visible_shares(scene, less, true_surfaces(scene, less)))
    assert asked == [sample.objects[1].object_id, sample.objects[3].object_id]
    assert others == {1: "under 5 % visible", 3: "under 50 pixels in the mask"}
    score = score_scene(scene, "test_trained", {OURS: lambda *_: Prediction({})})
    found = {f["name"]: f["value"] for f in figures([score])}
    assert found["objects asked of no method: under 5 % visible"] == 1


def test_what_the_border_cuts_off_is_not_visible(sample: SceneSample) -> None:
    view = sample.views[0]
    truth = true_surfaces(sample, view)
    whole = visible_shares(sample, view, truth)
    assert list(whole.values()) == pytest.approx(view.visible_fraction)
    # The picture is cropped in the middle of the first object.
    centre = truth[1].points.mean(axis=0)
    row = int(view.intrinsics[1, 1] * centre[1] / centre[2] + view.intrinsics[1, 2])
    cropped = View(
        view.rgb[:row],
        view.depth[:row],
        view.mask[:row],
        view.intrinsics,
        view.camera_pose,
        view.visible_fraction,
    )
    share = visible_shares(sample, cropped, truth)[1]
    assert 0.3 * whole[1] < share < 0.7 * whole[1]


def test_levels_and_splits_stay_apart(sample: SceneSample) -> None:
    from parts.reconstruction import OURS, Prediction, score_scene
    from parts.reconstruction_table import cells, figures

    view = sample.views[0]
    fractions = np.array([0.9, 0.5, 0.2, 0.8], np.float32)
    levelled = View(view.rgb, view.depth, view.mask, view.intrinsics, view.camera_pose, fractions)
    scene = SceneSample(sample.seed, sample.support_kind, sample.objects, (levelled,))
    truth = true_surfaces(scene, levelled)
    perfect = score_scene(scene, "test_trained", {OURS: lambda *_: Prediction(truth)})
    nothing = score_scene(scene, "test_unseen", {OURS: lambda *_: Prediction({})})
    summaries = cells([*perfect.records, *nothing.records])
    assert [summaries["test_trained", level, OURS].count for level in LEVELS] == [2, 1, 1]
    assert summaries["test_trained", "all", OURS]["f1_5"] == 100
    assert summaries["test_unseen", "all", OURS]["f1_5"] == 0
    found = {f["name"]: f["value"] for f in figures([perfect, nothing])}
    # Four measures at all levels together and at each of three.
    assert found["unseen families: columns in which a reference is as good or better"] == 16


def test_ablations_get_rows_and_penetration(sample: SceneSample) -> None:
    from parts.reconstruction import OURS, Prediction, score_scene
    from parts.reconstruction_table import figures, markdown

    truth = true_surfaces(sample, sample.views[0])
    one = next(iter(truth.values()))
    # Every object reconstructed in one place: all of it is claimed twice.
    heap = {i: Surface(one.points, one.normals) for i in truth}
    score = score_scene(
        sample, "test_trained", {OURS: lambda *_: Prediction(truth), "heap": lambda *_: Prediction(heap)}
    )
    assert score.penetration["heap"] > 10 > score.penetration[OURS]
    assert "| all | 4 | heap |" in markdown(score.records)
    assert any("heap" in f["name"] and f["value"] > 10 for f in figures([score]))


def test_records_are_written(sample: SceneSample, tmp_path: Path) -> None:
    from parts.reconstruction import OURS, Prediction, score_scene
    from parts.reconstruction_table import write_records

    score = score_scene(sample, "test_trained", {OURS: lambda *_: Prediction({})})
    write_records(score.records, tmp_path / "records.csv")
    rows = list(csv.DictReader((tmp_path / "records.csv").open()))
    assert len(rows) == 4 * 4
    assert {r["method"] for r in rows} == {OURS, "visible points", "convex hull", "mirror completion"}
    assert all(r["missed"] == ("1" if r["method"] == OURS else "0") for r in rows)


def test_best_grasps_are_executed_in_the_scene_s_world(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco", reason="needs the extra `sim`")
    from parts import grasp_success

    from zerograsp_edge.runtime.result import Grasps
    from zerograsp_edge.runtime.simulation.shapes import Box
    from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

    box, pose = Box((20, 15, 30)), np.eye(4)
    pose[:3, 3] = (40, -10, 30)
    table = SupportBox(np.array([0.0, 0, -10]), np.array([400.0, 400, 10]), np.eye(3))
    world = World("table", (table,), (WorldObject(1, "box", box, pose),), 0)
    monkeypatch.setattr(grasp_success, "world_of", lambda *_: world)
    # At the middle of the top, from above: the fingers close along y, 30 mm apart, and reach 10 mm down. The second
    # point's label would pass beside the box: it has the higher graspness, but not the higher product with quality.
    points = np.array([[0.0, 0, 30], [0, 15, 20]], np.float32)
    normals = np.array([[0.0, 0, 1], [0, 1, 0]], np.float32)
    labels = np.zeros((2, GRASP_CHANNELS), np.float32)
    labels[0] = [0.8, 0.9, 0, 1, 0, 0, 0, 1, 0.25, 0.7]
    labels[1] = [1.0, 0.1, 0, 0, 1, 0, 1, 0, 0.0, 0.2]
    camera = SimulatedCamera(0, 1, 160, 120)
    frame, truth = camera.render(0)
    assert frame.mask is not None
    view = View(
        frame.rgb,
        frame.depth,
        frame.mask.astype(np.uint8),
        frame.intrinsics,
        truth.camera_pose,
        np.ones(1, np.float32),
    )
    sample = SceneSample(0, "table", (ObjectSurface(1, "box", pose, points, normals, labels),), (view,))

    def predicted(height_mm: float) -> Grasps:
        """From above on the box's middle, as the camera sees it."""
        world_from_grasp = np.eye(4)
        world_from_grasp[:3, :3] = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], float).T
        world_from_grasp[:3, 3] = np.array([40, -10, height_mm]) / 1000
        camera_from_world = np.linalg.inv(truth.camera_pose)
        camera_from_world[:3, 3] /= 1000
        one = Grasps(
            np.array([0.7], np.float32),
            np.array([0.07], np.float32),
            np.array([0.01], np.float32),
            world_from_grasp[None, :3, :3].astype(np.float32),
            world_from_grasp[None, :3, 3].astype(np.float32),
            np.array([1], np.int32),
        )
        worse = Grasps(np.array([0.1], np.float32), *(getattr(one, n) for n in list(vars(one))[1:]))
        return Grasps.concatenate([worse.transformed(np.eye(4)), one.transformed(camera_from_world)])

    outcomes = {
        height: [t.outcome for t in grasp_success.run(sample, "test_trained", {1: predicted(height)}, [1])]
        for height in (40, 110)
    }
    assert outcomes == {40: ["held", "held"], 110: ["missed", "held"]}
    without = grasp_success.run(sample, "test_trained", {}, [1])
    assert [(t.method, t.outcome) for t in without] == [
        ("ours", grasp_success.NO_GRASP),
        ("best label", "held"),
    ]
    found = {f["name"]: f for f in grasp_success.figures(without)}
    assert found["trained families, all scenes (1): best grasp holds"]["value"] == 0
    assert grasp_success.run(sample, "test_trained", {}, []) == []


@pytest.mark.parametrize(
    ("shift", "family", "same"), [(0.0, "box", True), (5.0, "box", False), (0.0, "torus", False)]
)
def test_a_world_made_again_must_be_the_stored_one(
    sample: SceneSample, monkeypatch: pytest.MonkeyPatch, shift: float, family: str, same: bool
) -> None:
    pytest.importorskip("mujoco", reason="needs the extra `sim`")
    from parts import grasp_success

    from zerograsp_edge.runtime.simulation import scenes
    from zerograsp_edge.runtime.simulation.settle import SettleError
    from zerograsp_edge.runtime.simulation.shapes import Box
    from zerograsp_edge.runtime.simulation.world import World, WorldObject

    pose = np.eye(4)
    stored = ObjectSurface(1, "box", pose, *(np.zeros((1, n), np.float32) for n in (3, 3, GRASP_CHANNELS)))
    scene = SceneSample(7, "table", (stored,), sample.views)
    moved = pose.copy()
    moved[0, 3] = shift

    def attempt_world(seed: int, split: str, kind: None, attempt: int) -> World:
        if attempt == 0:
            raise SettleError("all objects fell off")
        return World("table", (), (WorldObject(1, family, Box((10, 10, 10)), moved),), seed)

    monkeypatch.setattr(scenes, "attempt_world", attempt_world)
    if same:
        assert grasp_success.world_of(scene, "test_trained").seed == 7
    else:
        with pytest.raises(grasp_success.WorldMismatch, match="delete the folder"):
            grasp_success.world_of(scene, "test_trained")


def test_seeds_without_a_scene_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="needs the extra `sim`")
    import reconstruction

    from zerograsp_edge.export.training import generate

    asked: list[tuple[str, list[int]]] = []

    def pretend(folder: Path, split: str, seeds: list[int], *_: object, **__: object) -> generate.Generation:
        asked.append((split, list(seeds)))
        failed = {seed: "no scene" for seed in seeds if split == "test_trained" and seed in (1, 4)}
        return generate.Generation(failed=failed)

    monkeypatch.setattr(generate, "generate", pretend)
    scenes = reconstruction.held_out_scenes(tmp_path, 4, 1, False)
    assert asked == [
        ("test_trained", [0, 1, 2, 3]),
        ("test_trained", [0, 2, 3, 4]),
        ("test_trained", [0, 2, 3, 5]),
        ("test_unseen", [0, 1, 2, 3]),
    ]
    assert [path.name for split, path in scenes if split == "test_trained"] == [
        f"test_trained-{seed:06d}.npz" for seed in (0, 2, 3, 5)
    ]
