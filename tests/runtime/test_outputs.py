"""Every output is read back by an independent reader; failures leave no half-written file."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from zerograsp_edge.runtime import outputs
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.errors import MissingExtra, OutputError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.decode import OctreeCube
from zerograsp_edge.runtime.outputs import write_outputs
from zerograsp_edge.runtime.overlay import draw_overlay, gripper_wireframe, object_colour
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result, SkippedObject

trimesh = pytest.importorskip("trimesh")
CUBE = OctreeCube(z_min=0.0)


@pytest.fixture(scope="module")
def scene() -> tuple[Frame, Result]:
    """A simulated frame with its true surfaces as reconstruction, and grasps from above."""
    camera = SimulatedCamera(5, 3, 320, 240)
    frame = camera.read()
    objects = []
    for index, truth in enumerate(camera.ground_truth.objects):
        centre, radius = truth.pose[:3, 3], truth.source.shape.bounding_radius
        low, high = ((centre + sign * (radius + 4) - CUBE.origin) / CUBE.voxel_size for sign in (-1, 1))
        ranges = [np.arange(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
        nodes = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
        centres = CUBE.node_centres(nodes, 9).astype(np.float64)
        sdf = truth.distance(centres)
        nodes, centres, sdf = (values[np.abs(sdf) < 2] for values in (nodes, centres, sdf))
        normals = np.stack(
            [truth.distance(centres + e) - truth.distance(centres - e) for e in np.eye(3) * 1e-3], axis=1
        )
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        grasps = Grasps(
            score=np.array([0.2, 0.9], np.float32) - 0.1 * np.float32(index),
            width=np.full(2, 0.06, np.float32),
            depth=np.full(2, 0.02, np.float32),
            rotation=np.tile(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32), (2, 1, 1)),
            translation=np.tile(centre / 1000, (2, 1)).astype(np.float32),
            object_id=np.full(2, truth.object_id, np.int32),
        )
        arrays = (values.astype(np.float32) for values in (centres - normals * sdf[:, None], normals, sdf))
        objects.append(
            ObjectReconstruction(truth.object_id, index, *arrays, nodes, CUBE.origin, CUBE.voxel_size, grasps)
        )
    skipped = (SkippedObject(9, "no valid depth under its mask"),)
    return frame, Result(
        tuple(objects), skipped, {"encode": 1.25, "total": 20.5}, name=frame.name, notes=("a note",)
    )


def test_all_files_are_written(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    written = write_outputs(tmp_path / "new" / "folder", *scene)
    assert {path.name for path in written} == {
        "points.ply",
        "mesh.glb",
        "grasps.npz",
        "overlay.png",
        "timings.json",
    }
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        p.name for p in written
    )
    write_outputs(tmp_path / "new" / "folder", *scene)  # again, over the old files


def test_points_read_back(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    _, result = scene
    outputs.write_points(tmp_path / "points.ply", result)
    cloud = trimesh.load(tmp_path / "points.ply")
    np.testing.assert_allclose(
        cloud.vertices, np.concatenate([o.points for o in result.objects]) / 1000, atol=1e-6
    )
    colours = np.concatenate([np.tile(object_colour(o.index), (len(o.points), 1)) for o in result.objects])
    np.testing.assert_array_equal(cloud.colors[:, :3], colours)
    raw = cloud.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(raw["ny"].ravel(), np.concatenate([o.normals for o in result.objects])[:, 1])
    assert set(raw["object_id"].ravel()) == {1, 2, 3}


def test_meshes_read_back(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    _, result = scene
    outputs.write_mesh(tmp_path / "mesh.glb", result)
    loaded = trimesh.load(tmp_path / "mesh.glb", force="scene")
    assert set(loaded.geometry) == {"object_1", "object_2", "object_3"}
    for item in result.objects:
        transform, name = loaded.graph[f"object_{item.object_id}"]
        mesh = loaded.geometry[name].copy()
        mesh.apply_transform(transform)
        assert mesh.volume == pytest.approx(item.mesh().volume * 1e-9, rel=1e-3)
        x, y, z = item.mesh().centroid / 1000
        np.testing.assert_allclose(mesh.centroid, [x, -y, -z], atol=1e-4)  # glTF: y up, z towards the viewer
    first = loaded.geometry["object_1"].visual.material.baseColorFactor
    assert tuple(first[:3]) != tuple(loaded.geometry["object_2"].visual.material.baseColorFactor[:3])


def test_grasps_read_back(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    frame, result = scene
    outputs.write_grasps(tmp_path / "grasps.npz", result)
    with np.load(tmp_path / "grasps.npz", allow_pickle=False) as loaded:
        assert (np.diff(loaded["score"]) <= 0).all()
        np.testing.assert_array_equal(loaded["graspnet"], result.grasps.to_graspnet())
        np.testing.assert_array_equal(loaded["rotation"], result.grasps.rotation)
        metadata = json.loads(str(loaded["metadata"]))
    assert metadata["frame"] == frame.name and metadata["units"] == "metres"
    assert metadata["skipped"] == {"9": "no valid depth under its mask"} and metadata["notes"] == ["a note"]


def test_timings_read_back(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    outputs.write_timings(tmp_path / "timings.json", scene[1])
    content = json.loads((tmp_path / "timings.json").read_text())
    assert content["milliseconds"] == {"encode": 1.25, "total": 20.5}
    assert (content["objects"], content["skipped"], content["grasps"]) == (3, 1, 6)


def test_overlay_reads_back_and_shows_the_objects(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    frame, result = scene
    without_grasps = Result(tuple(replace(item, grasps=Grasps.empty()) for item in result.objects))
    outputs.write_overlay(tmp_path / "overlay.png", frame, without_grasps)
    picture = cv2.imread(str(tmp_path / "overlay.png"))[:, :, ::-1].astype(int)
    assert picture.shape == (720, 960, 3)
    factor = 3
    for index in range(3):
        # The outline in the object's colour lies where the mask ends.
        rows, columns = np.nonzero(frame.label_image() == index)
        row = int(np.median(rows))
        left = columns[rows == row].min() * factor
        strip = picture[row * factor : row * factor + factor, max(left - 4, 0) : left + 5]
        assert np.abs(strip - object_colour(index)).sum(axis=-1).min() < 30


def test_gripper_is_drawn_where_it_would_be(scene: tuple[Frame, Result]) -> None:
    """The middle between the finger tips projects onto the object's centre column for a grasp from above."""
    frame, result = scene
    grasps = result.objects[0].grasps
    fingers, handles = gripper_wireframe(grasps)
    np.testing.assert_allclose(np.linalg.norm(fingers[:, 0] - fingers[:, 3], axis=1), grasps.width, rtol=1e-5)
    middle = (fingers[:, 0] + fingers[:, 3]) / 2
    np.testing.assert_allclose(
        middle, grasps.translation + grasps.depth[:, None] * grasps.rotation[:, :, 0], atol=1e-6
    )
    np.testing.assert_allclose(handles[:, 0], (fingers[:, 1] + fingers[:, 2]) / 2, atol=1e-6)
    bare = draw_overlay(frame, Result(()))
    drawn = draw_overlay(frame, Result(result.objects[:1]))
    u, v, w = frame.intrinsics @ fingers[1, 1]
    at = np.rint((np.array([v, u]) / w + 0.5) * 3 - 0.5).astype(int)
    assert (drawn[at[0], at[1]] != bare[at[0], at[1]]).any()


def test_overlay_without_mask_objects_or_grasps(scene: tuple[Frame, Result]) -> None:
    frame, _ = scene
    bare = Frame(frame.rgb, frame.depth, frame.intrinsics)
    assert draw_overlay(bare, Result(())).shape == (720, 960, 3)


def test_empty_result(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    assert len(write_outputs(tmp_path, scene[0], Result(()))) == 4
    with pytest.raises(OutputError, match="none of the 0 objects has a surface"):
        outputs.write_mesh(tmp_path / "mesh.glb", Result(()))


def test_full_disk_is_one_clear_error_and_keeps_the_old_file(
    scene: tuple[Frame, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timings.json").write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OutputError, match=r"timings\.json cannot be written: No space left on device"):
        outputs.write_timings(tmp_path / "timings.json", scene[1])
    assert [path.name for path in tmp_path.iterdir()] == ["timings.json"]
    assert (tmp_path / "timings.json").read_text() == "old"


def test_output_folder_that_is_a_file(scene: tuple[Frame, Result], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"output folder .*out cannot be made: File exists"):
        write_outputs(tmp_path / "out", *scene, mesh=False)


def test_missing_mesh_extra_is_named_before_anything_is_written(
    scene: tuple[Frame, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    monkeypatch.setitem(__import__("sys").modules, "skimage.measure", None)
    with pytest.raises(
        MissingExtra, match=r"'skimage' is needed to write mesh\.glb .*zerograsp-edge\[mesh\]"
    ):
        write_outputs(tmp_path / "out", *scene)
    assert not (tmp_path / "out").exists()
