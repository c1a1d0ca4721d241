"""The pipeline on simulated frames, `verify`, and the commands that use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import REFERENCE, BundleError, load_bundle
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.decode import OctreeCube
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.verify import verify

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]
SameResult = Callable[[Result, Result], None]


# Determinism


def test_the_same_frame_gives_the_same_bits(
    pipeline: Pipeline, frame: Frame, other_frame: Frame, same_result: SameResult
) -> None:
    first = pipeline(frame)
    pipeline(other_frame)
    same_result(first, pipeline(frame))


def test_two_pipelines_agree(
    tiny_path: Path, pipeline: Pipeline, frame: Frame, same_result: SameResult
) -> None:
    same_result(Pipeline(load_bundle(tiny_path), threads=2)(frame), pipeline(frame))


def test_number_of_threads_changes_rounding_at_most(
    tiny_path: Path, pipeline: Pipeline, frame: Frame
) -> None:
    one: dict[str, np.ndarray] = {}
    two: dict[str, np.ndarray] = {}
    Pipeline(load_bundle(tiny_path), threads=1).run(frame, taps=one)
    pipeline.run(frame, taps=two)
    assert set(one) == set(two)
    assert sum("keys" in name for name in one) == 8
    for name, array in one.items():
        if "keys" in name:
            np.testing.assert_array_equal(array, two[name])
        else:
            assert np.abs(array - two[name]).max() <= 1e-5 * np.abs(array).max(), name


def test_sampled_latent(tiny_path: Path, pipeline: Pipeline, frame: Frame, same_result: SameResult) -> None:
    bundle = load_bundle(tiny_path)

    def tokens(seed: int) -> list[np.ndarray]:
        sampling = Pipeline(bundle, threads=2, latent="sample", seed=seed)
        taps: list[dict[str, np.ndarray]] = [{}, {}]
        for recorded in taps:
            sampling.run(frame, taps=recorded)
        return [recorded["octree_encoder/tokens"] for recorded in taps]

    mean: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=mean)
    first, second = tokens(3)
    np.testing.assert_array_equal(tokens(3), (first, second))  # reproducible
    different = [mean["octree_encoder/tokens"], first, second, tokens(4)[0]]
    for i, a in enumerate(different):
        for b in different[i + 1 :]:
            assert np.abs(a - b).max() > 1e-3


def test_results_are_not_overwritten_by_the_next_frame(
    pipeline: Pipeline, frame: Frame, other_frame: Frame, same_result: SameResult
) -> None:
    result = pipeline(frame)
    arrays = [np.copy(o.points) for o in result.objects] + [o.grasps.to_graspnet() for o in result.objects]
    for _ in range(2):
        pipeline(other_frame)
    after = [o.points for o in result.objects] + [o.grasps.to_graspnet() for o in result.objects]
    for a, b in zip(arrays, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_taps_are_copies(pipeline: Pipeline, frame: Frame, other_frame: Frame) -> None:
    taps: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=taps)
    before = {name: array.copy() for name, array in taps.items()}
    pipeline(other_frame)
    for name, array in before.items():
        np.testing.assert_array_equal(array, taps[name], err_msg=name)


def test_two_threads_share_a_pipeline(
    pipeline: Pipeline, frame: Frame, other_frame: Frame, same_result: SameResult
) -> None:
    frames = [frame, other_frame] * 6
    expected = [pipeline(f) for f in frames[:2]]
    with ThreadPoolExecutor(2) as pool:
        for i, result in enumerate(pool.map(pipeline, frames)):
            same_result(result, expected[i % 2])


def pixels(frame: Frame, object_id: int) -> int:
    return int(np.count_nonzero(frame.mask == object_id))


def test_frames_of_changing_sizes(pipeline: Pipeline, frame: Frame, same_result: SameResult) -> None:
    """Larger frames before and after do not show in the result; a crop keeps every point where it was."""
    before = pipeline(frame)
    cropped = frame.crop(10, 110, 20, 150)
    inside = [i for i in frame.object_ids() if pixels(frame, i) == pixels(cropped, i)]
    assert inside
    taps: dict[str, np.ndarray] = {}
    result = pipeline.run(cropped, taps=taps)
    assert result.z_min == before.z_min
    assert {o.object_id for o in result.objects} >= set(inside)
    same_result(pipeline(frame), before)


def test_arrays_may_be_views(pipeline: Pipeline, frame: Frame, same_result: SameResult) -> None:
    """Channels turned from BGR, K cut from a 3x4 projection matrix, a picture cut from a larger one."""
    assert frame.mask is not None
    projection = np.zeros((3, 4), np.float32)
    projection[:, :3] = frame.intrinsics
    bgr = np.ascontiguousarray(frame.rgb[:, :, ::-1])
    depth, mask = (np.repeat(image, 2, axis=1)[:, ::2] for image in (frame.depth, frame.mask))
    views = Frame(bgr[:, :, ::-1], depth, projection[:, :3], mask)
    same_result(pipeline(views), pipeline(frame))


# What a result is


def test_result_is_consistent(pipeline: Pipeline, other_frame: Frame) -> None:
    taps: dict[str, np.ndarray] = {}
    result = pipeline.run(other_frame, taps=taps)
    g = pipeline.bundle.geometry
    cube = OctreeCube(result.z_min, g.grid_size, g.min_lod, g.max_lod)
    assert [o.object_id for o in result.objects] == list(other_frame.object_ids())
    assert [o.index for o in result.objects] == list(range(len(result.objects)))
    assert result.name == other_frame.name and result.timestamp == other_frame.timestamp
    assert result.z_min % g.grid_size == 0
    occupied = taps[f"decoder_{g.max_lod}/signal"][:, 1] > taps[f"decoder_{g.max_lod}/signal"][:, 0]
    assert sum(len(o.points) for o in result.objects) == occupied.sum() > 100
    for item in result.objects:
        assert len(item.points) == len(item.normals) == len(item.sdf) == len(item.nodes) == len(item.grasps)
        np.testing.assert_allclose(np.linalg.norm(item.normals, axis=1), 1.0, atol=1e-5)
        assert item.nodes.min() >= 0 and item.nodes.max() < 1 << g.max_lod
        centres = cube.node_centres(item.nodes, g.max_lod)
        np.testing.assert_allclose(np.linalg.norm(item.points - centres, axis=1), np.abs(item.sdf), atol=1e-3)
        np.testing.assert_allclose(item.points, centres - item.normals * item.sdf[:, None], atol=1e-3)
        np.testing.assert_array_equal(item.origin, cube.origin)
        assert item.voxel_size == g.voxel_size == 10.0
        grasps = item.grasps
        assert set(grasps.object_id.tolist()) == {item.object_id}
        np.testing.assert_allclose(grasps.translation * 1000, item.points, atol=1e-3)
        identity = np.broadcast_to(np.eye(3), grasps.rotation.shape)
        np.testing.assert_allclose(grasps.rotation.transpose(0, 2, 1) @ grasps.rotation, identity, atol=1e-4)
        np.testing.assert_allclose(np.linalg.det(grasps.rotation), 1.0, atol=1e-4)
        assert grasps.width.min() >= 0 and grasps.width.max() <= np.float32(0.1)
        assert grasps.depth.min() >= 0 and grasps.depth.max() <= np.float32(0.04)


def test_every_stage_is_timed(pipeline: Pipeline, frame: Frame) -> None:
    timings = pipeline(frame).timings
    parts = [
        "points",
        "adjacency",
        "image_encoder",
        "octree_build",
        "voxel_features",
        "octree_encoder",
        "growth",
    ]
    assert list(timings) == [*parts, "decoder_3", "decoder_4", "decoder_5", "decoder_6", "decode"]
    assert all(ms > 0 for ms in timings.values())


def test_mask_values_name_the_objects(pipeline: Pipeline, frame: Frame) -> None:
    """Ids are free: the same masks under other values, in the same order, give the same shapes."""
    assert frame.mask is not None
    values = np.array([5, 40, 7000, 65000], np.uint16)
    renamed = frame.with_mask(values[frame.mask])
    for a, b in zip(pipeline(frame).objects, pipeline(renamed).objects, strict=True):
        assert b.object_id == values[a.object_id]
        assert set(b.grasps.object_id.tolist()) <= {b.object_id}
        np.testing.assert_array_equal(a.points, b.points)


# verify


def change_weight(bundle: Path, stage: str, edit_manifest: EditManifest, factor: float = 1.5) -> None:
    """Scales the largest weight of a stage's largest initialiser and renews the hashes."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    path = bundle / f"{stage}.onnx"
    model = onnx.load(path)
    tensor = max(
        (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT),
        key=lambda t: onnx.numpy_helper.to_array(t).size,
    )
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[np.abs(array).argmax()] *= factor
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    edit_manifest(bundle, lambda m: None)


def test_verify_passes_on_a_fresh_bundle(pipeline: Pipeline) -> None:
    report = verify(pipeline)
    assert report.ok and report.failures == () and report.backend == "onnxruntime"
    stages = {check.name.split("/")[0] for check in report.tensors}
    assert stages == set(pipeline.bundle.stages)
    assert all(check.error < 1e-4 and check.cosine > 0.9999 for check in report.tensors)
    assert [octree.depth for octree in report.octrees] == [3, 4, 5, 6]
    assert all(octree.nodes > 0 and octree.iou > 0.99 for octree in report.octrees)
    figures = json.loads(json.dumps(report.to_dict()))
    assert figures["ok"] and len(figures["tensors"]) == len(report.tensors)


@pytest.mark.parametrize(
    "stage", ["image_encoder", "octree_encoder", "decoder_3", "decoder_4", "decoder_5", "decoder_6"]
)
def test_verify_names_the_stage_that_differs(
    bundle_copy: Path, edit_manifest: EditManifest, stage: str
) -> None:
    change_weight(bundle_copy, stage, edit_manifest)
    report = verify(Pipeline(load_bundle(bundle_copy), threads=2))
    assert not report.ok
    # Stages are listed as they run, so the first that differs is the cause.
    assert report.failures[0].startswith(f"{stage}/")
    order = [check.name.split("/")[0] for check in report.tensors]
    assert all(check.ok for check in report.tensors[: order.index(stage)])


def test_verify_command(
    tiny_path: Path,
    bundle_copy: Path,
    edit_manifest: EditManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", str(tiny_path), "--json", str(tmp_path / "good.json")]) == 0
    assert "verified" in capsys.readouterr().out
    assert json.loads((tmp_path / "good.json").read_text())["ok"] is True
    change_weight(bundle_copy, "decoder_4", edit_manifest)
    assert main(["verify", str(bundle_copy), "--json", str(tmp_path / "bad.json")]) == 1
    output = capsys.readouterr().out
    assert "not verified" in output and "decoder_4" in output
    assert json.loads((tmp_path / "bad.json").read_text())["ok"] is False


def test_verify_sees_another_octree(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    """Reference splits that do not fit the octree are an error, not a crash."""
    with np.load(bundle_copy / REFERENCE) as file:
        reference = dict(file)
    reference["keys_4"] = reference["keys_4"][:-8]
    np.savez(bundle_copy / REFERENCE, **reference)
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(BundleError, match="octree of the reference frame differs"):
        verify(Pipeline(load_bundle(bundle_copy), threads=2))


@pytest.mark.parametrize(
    "entry",
    ["frame/depth", "split_5", "object_ids", "decoder_4/logits/values", "octree_encoder/tokens/scale"],
)
def test_incomplete_reference_does_not_verify(
    bundle_copy: Path, edit_manifest: EditManifest, entry: str
) -> None:
    with np.load(bundle_copy / REFERENCE) as file:
        np.savez(bundle_copy / REFERENCE, **{name: array for name, array in file.items() if name != entry})
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(BundleError, match=f"reference outputs lack {entry}; export the bundle again"):
        verify(Pipeline(load_bundle(bundle_copy), threads=2))


def test_verify_without_reference(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    (bundle_copy / REFERENCE).unlink()
    edit_manifest(bundle_copy, lambda m: m["files"].pop(REFERENCE))
    with pytest.raises(BundleError, match="no usable reference outputs"):
        verify(Pipeline(load_bundle(bundle_copy), threads=2))


# The other commands


def test_run_command_writes_every_output(
    tiny_path: Path,
    frame: Frame,
    frame_files: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pipeline: Pipeline,
) -> None:
    pytest.importorskip("skimage", reason="needs the extra `mesh`")
    out = tmp_path / "out"
    assert (
        main(["run", "--bundle", str(tiny_path), *frame_files(frame), "--out", str(out), "--repeat", "2"])
        == 0
    )
    names = {"points.ply", "grasps.npz", "overlay.png", "timings.json", "mesh.glb"}
    assert {path.name for path in out.iterdir()} == names
    output = " ".join(capsys.readouterr().out.split())
    assert "weights of this bundle are random" in output  # nobody takes these shapes for real
    assert all(
        part in output for part in ("time per stage", "decoder_6", "objects of frame scene", "grasps.npz")
    )
    found = json.loads((out / "timings.json").read_text())
    assert found["objects"] == 3 and found["points"] > 100
    rounded = replace(frame, depth=np.rint(frame.depth))  # as the PNG holds it
    with np.load(out / "grasps.npz") as grasps:
        assert len(grasps["score"]) == len(pipeline(rounded).grasps)


def test_run_command_on_a_folder(
    tiny_path: Path, frame: Frame, frame_files: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder, out = tmp_path / "recording", tmp_path / "out"
    shifted = replace(frame, rgb=np.roll(frame.rgb, 1, axis=2))
    for name, picture in (("000", frame), ("001", shifted)):
        frame_files(picture, folder, name)
    common = ["--bundle", str(tiny_path), "--no-mesh", "--quiet"]
    assert main(["run", str(folder), *common, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["000", "001"]
    results = [(out / name / "points.ply").read_bytes() for name in ("000", "001")]
    assert results[0] != results[1]
    assert main(["run", str(folder), *common, "--out", str(tmp_path / "one"), "--frame", "001"]) == 0
    assert (tmp_path / "one" / "points.ply").read_bytes() == results[1]


def test_quiet_run_says_nothing(
    tiny_path: Path,
    frame: Frame,
    frame_files: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = ["--out", str(tmp_path / "out"), "--no-mesh", "--quiet"]
    assert main(["run", "--bundle", str(tiny_path), *frame_files(frame), *options]) == 0
    assert capfd.readouterr() == ("", "")


def test_demo_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the model that ships: trained, and it finds every object of the scene."""
    pytest.importorskip("skimage", reason="needs the extra `mesh`")
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--frames", "2", "--objects", "3"]) == 0
    files = {"points.ply", "mesh.glb", "grasps.npz", "overlay.png", "timings.json"}
    pick = {"pick.gif", "pick.jsonl", "report.json"}  # where worlds can be simulated and rendered
    assert {path.name for path in out.iterdir()} in (files, files | pick)
    output = " ".join(capsys.readouterr().out.split())
    assert "random" not in output and "time per stage" in output


def test_demo_command_with_a_bundle(
    tiny_path: Path, tmp_path: Path, failing_command: Callable[[list[str]], str]
) -> None:
    """640x480 pixels of the demonstration exceed the tiny bundle's limits."""
    line = failing_command(["demo", "--out", str(tmp_path / "demo"), "--bundle", str(tiny_path)])
    assert "max_width = 320" in line


def test_doctor_command(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)
    assert status in (0, 1) and len(checks) > 3
    assert main(["doctor"]) == status
    assert capsys.readouterr().out.strip()


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--no-such-option"], ["dance"], ["verify"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert all(command in output for command in ("demo", "run", "export", "verify", "doctor"))


def test_interrupt_is_status_130(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zerograsp_edge.runtime import bundle
    from zerograsp_edge.runtime.commands import run

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "load_bundle", interrupt)
    monkeypatch.setattr(bundle, "load_bundle", interrupt)
    assert main(["run", "--bundle", str(tiny_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
