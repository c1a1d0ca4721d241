"""Everything that can be wrong with a frame or a bundle: a clear error, or a skipped object."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import (
    CUSTOM_OP_VERSION,
    MANIFEST,
    REFERENCE,
    VERSION,
    BundleError,
    Limits,
    load_bundle,
)
from zerograsp_edge.runtime.errors import DecodeError, FrameError, ZeroGraspError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import LimitError, Pipeline
from zerograsp_edge.runtime.result import Result

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]
SameResult = Callable[[Result, Result], None]
FilesOf = Callable[..., list[str]]
Failing = Callable[[list[str]], str]


def changed(frame: Frame, **arrays: Any) -> Frame:
    """The frame with some of its parts replaced, checked as a camera's would be."""
    parts = {name: getattr(frame, name) for name in ("rgb", "depth", "intrinsics", "mask", "name")}
    return Frame(**{**parts, **arrays})


# Frames


def test_depth_of_another_size(frame: Frame) -> None:
    with pytest.raises(FrameError, match=r"depth must have the size of rgb, \(120, 160\).*got \(60, 80\)"):
        changed(frame, depth=frame.depth[::2, ::2])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.complex64])
def test_depth_of_a_wrong_type(frame: Frame, dtype: type) -> None:
    with pytest.raises(FrameError, match="depth must be float32 or uint16 millimetres"):
        changed(frame, depth=frame.depth.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_rgb_of_a_wrong_type(frame: Frame, dtype: type) -> None:
    with pytest.raises(FrameError, match="rgb must be a uint8 array"):
        changed(frame, rgb=frame.rgb.astype(dtype))


def test_float_mask(frame: Frame) -> None:
    assert frame.mask is not None
    with pytest.raises(FrameError, match="mask must be an array of integer instance ids"):
        changed(frame, mask=frame.mask.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -5.0])
def test_impossible_depth_counts_as_no_measurement(
    frame: Frame, pipeline: Pipeline, same_result: SameResult, value: float
) -> None:
    holes = np.random.default_rng(0).random(frame.depth.shape) < 0.2
    zero, impossible = frame.depth.copy(), frame.depth.copy()
    zero[holes], impossible[holes] = 0.0, value
    repaired = changed(frame, depth=impossible)
    assert repaired.repaired_depth == holes.sum()
    same_result(pipeline(repaired), pipeline(changed(frame, depth=zero)))


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_depth_without_any_measurement(frame: Frame, value: float) -> None:
    with pytest.raises(FrameError, match="depth has no valid pixel"):
        changed(frame, depth=np.full_like(frame.depth, value))


def test_depth_in_metres_is_not_guessed(frame: Frame) -> None:
    with pytest.raises(FrameError, match="are these metres"):
        changed(frame, depth=frame.depth / 1000)


def test_no_depth_under_the_masks(frame: Frame, pipeline: Pipeline) -> None:
    depth = np.where(frame.mask == frame.background_id, frame.depth, np.float32(0))
    with pytest.raises(FrameError, match="has no object to reconstruct: object 1: 0 pixels with valid depth"):
        pipeline(changed(frame, depth=depth))


def test_mask_without_object(frame: Frame) -> None:
    with pytest.raises(FrameError, match="mask holds no object"):
        changed(frame, mask=np.zeros_like(frame.mask))


def test_frame_without_mask(frame: Frame, pipeline: Pipeline) -> None:
    with pytest.raises(FrameError, match="has no instance mask; give the pipeline a segmenter"):
        pipeline(changed(frame, mask=None))


def test_300_objects_are_too_many(frame: Frame, pipeline: Pipeline) -> None:
    mask = np.arange(frame.height * frame.width).reshape(frame.depth.shape) % 301
    with pytest.raises(
        FrameError, match=r"frame has 300 objects, the bundle's limit is 8.*max_objects >= 300"
    ):
        pipeline(changed(frame, mask=mask.astype(np.int32)))


@pytest.mark.parametrize("focal", [0.0, -100.0, np.nan])
def test_impossible_focal_length(frame: Frame, focal: float) -> None:
    intrinsics = frame.intrinsics.copy()
    intrinsics[0, 0] = focal
    with pytest.raises(FrameError, match=r"focal lengths must be positive|intrinsics must be finite"):
        changed(frame, intrinsics=intrinsics)


def test_frame_larger_than_the_limits(frame: Frame, pipeline: Pipeline) -> None:
    for shape in ((241, 320), (240, 321)):
        large = Frame(
            np.zeros((*shape, 3), np.uint8),
            np.full(shape, 500, np.float32),
            frame.intrinsics,
            np.eye(*shape, dtype=np.uint8),
        )
        with pytest.raises(LimitError, match=r"max_width = 320, max_height = 240"):
            pipeline(large)


def test_more_nodes_than_the_limit(
    bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, pipeline: Pipeline, same_result: SameResult
) -> None:
    taps: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=taps)
    needed = max(len(taps["keys_6"]), len(taps["input_keys_6"]))

    def set_limit(nodes: int) -> None:
        edit_manifest(bundle_copy, lambda m: m["limits"].update(max_nodes=nodes))

    set_limit(needed)
    same_result(Pipeline(load_bundle(bundle_copy), threads=2)(frame), pipeline(frame))
    for nodes in (needed - 8, needed // 2, 8):
        set_limit(nodes)
        with pytest.raises(
            LimitError, match=rf"exceeds the bundle's limit max_nodes = {nodes}: .*--max-nodes"
        ):
            Pipeline(load_bundle(bundle_copy), threads=2)(frame)


def test_more_tokens_than_the_limit(
    bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, pipeline: Pipeline, same_result: SameResult
) -> None:
    taps: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=taps)
    needed = len(taps["input_keys_3"])
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_tokens=needed))
    same_result(Pipeline(load_bundle(bundle_copy), threads=2)(frame), pipeline(frame))
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_tokens=needed - 8))
    with pytest.raises(LimitError, match=rf"limit max_tokens = {needed - 8}: .*{needed} needed.*--max-tokens"):
        Pipeline(load_bundle(bundle_copy), threads=2)(frame)


# Objects that cannot be reconstructed


@pytest.mark.parametrize("points", [0, 1, 15])
def test_object_with_too_few_points_is_skipped(
    frame: Frame, pipeline: Pipeline, same_result: SameResult, points: int
) -> None:
    assert frame.mask is not None and pipeline.bundle.limits.min_points == 16
    victim = frame.object_ids()[1]  # its neighbours in number move up, those before it stay
    rows, columns = np.nonzero(frame.mask == victim)
    depth, without = frame.depth.copy(), frame.mask.copy()
    depth[rows[points:], columns[points:]] = 0
    # Nearer than everything else: a skipped object must not move the cube.
    depth[rows[:points], columns[:points]] = 60
    without[frame.mask == victim] = frame.background_id
    result = pipeline(changed(frame, depth=depth))
    (skipped,) = result.skipped
    assert skipped.object_id == victim
    assert skipped.reason == f"{points} pixels with valid depth, at least 16 are needed"
    assert [o.object_id for o in result.objects] == [i for i in frame.object_ids() if i != victim]
    same_result(result, pipeline(changed(frame, depth=depth, mask=without)))


def test_object_with_just_enough_points_is_kept(frame: Frame, pipeline: Pipeline) -> None:
    assert frame.mask is not None
    victim = frame.object_ids()[1]
    rows, columns = np.nonzero(frame.mask == victim)
    depth = frame.depth.copy()
    depth[rows[16:], columns[16:]] = 0
    result = pipeline(changed(frame, depth=depth))
    assert not result.skipped
    assert [o.object_id for o in result.objects] == list(frame.object_ids())


def test_object_outside_the_cube_is_skipped(
    frame: Frame, pipeline: Pipeline, same_result: SameResult
) -> None:
    assert frame.mask is not None
    victim = frame.object_ids()[0]
    depth, without = frame.depth.copy(), frame.mask.copy()
    depth[frame.mask == victim] = 3000
    without[frame.mask == victim] = frame.background_id
    result = pipeline(changed(frame, depth=depth))
    (skipped,) = result.skipped
    assert skipped.object_id == victim
    assert "outside the reconstructed cube: +-320 mm beside the optical axis" in skipped.reason
    same_result(result, pipeline(changed(frame, depth=depth, mask=without)))


def test_sparse_and_outside_objects_together(
    other_frame: Frame, pipeline: Pipeline, same_result: SameResult
) -> None:
    assert other_frame.mask is not None
    sparse, outside = other_frame.object_ids()[2], other_frame.object_ids()[0]
    depth, without = other_frame.depth.copy(), other_frame.mask.copy()
    depth[other_frame.mask == sparse] = 0
    depth[other_frame.mask == outside] = 5000
    without[np.isin(other_frame.mask, (sparse, outside))] = other_frame.background_id
    result = pipeline(changed(other_frame, depth=depth))
    assert [s.object_id for s in result.skipped] == sorted((sparse, outside))
    same_result(result, pipeline(changed(other_frame, depth=depth, mask=without)))


def test_only_objects_outside_the_cube(frame: Frame, pipeline: Pipeline) -> None:
    """The nearest point decides where the cube begins, so a lone object can only lie beside it."""
    assert frame.mask is not None
    mask = np.zeros_like(frame.mask)
    mask[:, :20] = 1
    with pytest.raises(
        FrameError, match="has no object to reconstruct: object 1: outside the reconstructed cube"
    ):
        pipeline(changed(frame, mask=mask, depth=np.full_like(frame.depth, 4000)))


def test_a_failed_frame_leaves_the_pipeline_as_it_was(
    bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, other_frame: Frame, same_result: SameResult
) -> None:
    def most_nodes(frame: Frame) -> int:
        taps: dict[str, np.ndarray] = {}
        Pipeline(load_bundle(bundle_copy), threads=2).run(frame, taps=taps)
        return max(len(array) for name, array in taps.items() if "keys_" in name and not name.endswith("_3"))

    # The limit lies between what the two frames need.
    frame, other_frame = sorted((frame, other_frame), key=most_nodes)
    limit = most_nodes(frame)
    assert limit < most_nodes(other_frame)
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_nodes=limit))
    pipeline = Pipeline(load_bundle(bundle_copy), threads=2)
    before = pipeline(frame)
    large = Frame(
        np.zeros((241, 100, 3), np.uint8), np.full((241, 100), 500, np.float32),
        frame.intrinsics, np.eye(241, 100, dtype=np.uint8),
    )  # fmt: skip
    empty = changed(frame, depth=np.where(frame.mask == frame.background_id, frame.depth, np.float32(0)))
    for bad, kind in ((large, LimitError), (empty, FrameError), (other_frame, LimitError)):
        with pytest.raises(kind):
            pipeline(bad)
        same_result(pipeline(frame), before)


# Bundles


def files_of(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.iterdir())


@pytest.fixture(
    params=[
        MANIFEST,
        REFERENCE,
        "image_encoder.onnx",
        "octree_encoder.onnx",
        "decoder_3.onnx",
        "decoder_6.onnx",
    ]
)
def victim(request: pytest.FixtureRequest, bundle_copy: Path) -> Path:
    """One file of a bundle."""
    return bundle_copy / request.param


def test_one_byte_flipped(victim: Path) -> None:
    data = victim.read_bytes()
    for position in np.random.default_rng(0).choice(len(data), 8, replace=False):
        # Flipping this bit turns no white space into other white space, which would be the same JSON.
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        victim.write_bytes(damaged)
        with pytest.raises(BundleError, match=victim.name):
            load_bundle(victim.parent)
    victim.write_bytes(data)
    load_bundle(victim.parent)


def test_a_digit_of_the_manifest_changed(bundle_copy: Path) -> None:
    """Well-formed JSON that says another cube: without a hash every shape would come out wrong."""
    path = bundle_copy / MANIFEST
    text = path.read_text()
    assert '"grid_size": 80.0' in text
    path.write_text(text.replace('"grid_size": 80.0', '"grid_size": 90.0'))
    with pytest.raises(BundleError, match=r"SHA-256.*copy or export the bundle again"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_truncated_file(victim: Path, keep: float) -> None:
    data = victim.read_bytes()
    victim.write_bytes(data[: min(int(len(data) * keep), len(data) - 2)])
    with pytest.raises(BundleError, match=r"copy or export the bundle again"):
        load_bundle(victim.parent)


def test_missing_file(victim: Path) -> None:
    victim.unlink()
    with pytest.raises(BundleError, match=victim.name):
        load_bundle(victim.parent)


def test_every_file_is_hashed(tiny_path: Path) -> None:
    manifest = json.loads((tiny_path / MANIFEST).read_text())
    assert sorted([*manifest["files"], MANIFEST]) == files_of(tiny_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "expected the format"),
        ("null", "expected the format"),
        ('{"name": "a web application"}', "expected the format"),
    ],
)
def test_manifest_of_something_else(bundle_copy: Path, text: str, message: str) -> None:
    (bundle_copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle_copy)


def test_manifest_that_is_no_text(bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(bundle_copy)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*zerograsp-edge export"):
        load_bundle(tmp_path / "absent.zgb")
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path)
    (tmp_path / "file.zgb").write_text("x")
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path / "file.zgb")


@pytest.mark.parametrize("escape", ["../outside.onnx", "/etc/hostname", "sub/../../outside.onnx", "."])
def test_path_that_leaves_the_bundle(bundle_copy: Path, edit_manifest: EditManifest, escape: str) -> None:
    (bundle_copy.parent / "outside.onnx").write_bytes((bundle_copy / "decoder_3.onnx").read_bytes())

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][escape] = manifest["files"].pop("decoder_3.onnx")
        manifest["stages"]["decoder_3"]["file"] = escape

    edit_manifest(bundle_copy, change)
    with pytest.raises(BundleError, match="lies outside the bundle; do not use it"):
        load_bundle(bundle_copy)


def test_link_that_leaves_the_bundle(bundle_copy: Path) -> None:
    outside = shutil.move(bundle_copy / "decoder_3.onnx", bundle_copy.parent / "outside.onnx")
    (bundle_copy / "decoder_3.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="lies outside the bundle"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "version",
            VERSION + 1,
            rf"bundle version {VERSION + 1}, this runtime knows up to {VERSION}: upgrade",
        ),
        ("custom_op_version", CUSTOM_OP_VERSION + 1, r"custom-op version .*upgrade it \(pip install -U"),
        ("version", VERSION - 1, f"outdated bundle version {VERSION - 1}, expected {VERSION}: export the bundle again"),
        ("custom_op_version", CUSTOM_OP_VERSION - 1, "outdated custom-op version 0"),
        ("version", "1", "expected an integer version, got '1'"),
        ("version", None, "expected an integer version, got None"),
        ("files", [], "expected files to be a dict"),
        ("limits", {"max_nodes": 5, "max_colours": 3}, "entry missing or malformed"),
        ("limits", {"max_nodes": 0}, "max_nodes: expected a positive integer, got 0"),
        ("stages", {}, "stages missing: decoder_3, decoder_4"),
        ("stages", None, "entry missing or malformed"),
    ],
)
def test_manifest_of_another_version_or_form(
    bundle_copy: Path, edit_manifest: EditManifest, key: str, value: Any, message: str
) -> None:
    edit_manifest(bundle_copy, lambda m: m.update({key: value}))
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("section", ["network", "limits", "stages", "files", "image_multiple", "trained"])
def test_manifest_without_a_section(bundle_copy: Path, edit_manifest: EditManifest, section: str) -> None:
    edit_manifest(bundle_copy, lambda m: m.pop(section))
    with pytest.raises(BundleError, match="export the bundle again"):
        load_bundle(bundle_copy)


def test_stage_without_hash(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    edit_manifest(bundle_copy, lambda m: m["files"].pop("decoder_4.onnx"))
    with pytest.raises(BundleError, match=r"decoder_4.onnx has no hash"):
        load_bundle(bundle_copy)


def test_newer_version_is_named_before_its_files_are_judged(bundle_copy: Path) -> None:
    """A newer format may hash in another way; `upgrade` is then the advice, not `copy again`."""
    path = bundle_copy / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": VERSION + 1}))
    with pytest.raises(BundleError, match="upgrade it"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("limit", Limits.__dataclass_fields__)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_limits_are_positive_integers(limit: str, value: Any) -> None:
    with pytest.raises(BundleError, match=f"limit {limit}: expected a positive integer"):
        replace(Limits(), **{limit: value})


def test_stage_that_is_no_onnx_file(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    (bundle_copy / "decoder_5.onnx").write_bytes(b"not a graph")
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(BundleError, match=r"decoder_5\.onnx: ONNX Runtime refused it"):
        Pipeline(load_bundle(bundle_copy))


def test_stages_swapped(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        stages = manifest["stages"]
        stages["decoder_3"]["file"], stages["decoder_4"]["file"] = (
            stages["decoder_4"]["file"],
            stages["decoder_3"]["file"],
        )

    edit_manifest(bundle_copy, swap)
    with pytest.raises(BundleError, match="expected the inputs"):
        Pipeline(load_bundle(bundle_copy))


@pytest.mark.parametrize("stage", ["octree_encoder", "decoder_3", "decoder_5", "decoder_6"])
def test_nan_weights(bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, stage: str) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    path = bundle_copy / f"{stage}.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
    onnx.save(model, path)
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(DecodeError, match=r"NaN|not finite"):
        Pipeline(load_bundle(bundle_copy))(frame)


def test_pipeline_options(tiny_path: Path) -> None:
    bundle = load_bundle(tiny_path)
    with pytest.raises(BundleError, match="backend: expected one of auto, onnxruntime, tensorrt, got 'cuda'"):
        Pipeline(bundle, backend="cuda")
    with pytest.raises(ValueError, match="latent: expected 'mean' or 'sample', got 'median'"):
        Pipeline(bundle, latent="median")
    with pytest.raises(ValueError, match="threads: expected 0 or more, got -1"):
        Pipeline(bundle, threads=-1)


# The command line: one line on stderr, status 1


def run_options(bundle: Path, files: list[str], out: Path) -> list[str]:
    return ["run", "--bundle", str(bundle), *files, "--out", str(out), "--no-mesh", "--quiet"]


def option(files: list[str], name: str) -> Path:
    return Path(files[files.index(name) + 1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated rgb", "truncated"),
        ("truncated depth", "truncated"),
        ("small depth", "depth must have the size of rgb"),
        ("8-bit depth", "expected a 16-bit grey depth picture, got uint8"),
        ("empty mask", "mask holds no object"),
        ("no focal length", "focal lengths must be positive"),
        ("zero depth", "depth has no valid pixel"),
        ("missing mask", "cannot be read"),
        ("crop outside", "crop rows"),
        ("no rgb option", "missing: --rgb"),
        ("frame without folder", "--frame scene chooses from a folder"),
        ("folder and files", "expected a folder or single files"),
        ("too many objects", "frame has 50 objects, the bundle's limit is 8"),
    ],
)
def test_run_command_on_bad_frames(
    tiny_path: Path,
    frame: Frame,
    frame_files: FilesOf,
    failing_command: Failing,
    tmp_path: Path,
    name: str,
    message: str,
) -> None:
    import cv2

    files = frame_files(frame)
    rgb, depth, mask, camera = (option(files, o) for o in ("--rgb", "--depth", "--mask", "--intrinsics"))
    match name:
        case "truncated rgb":
            rgb.write_bytes(rgb.read_bytes()[:-100])
        case "truncated depth":
            depth.write_bytes(depth.read_bytes()[:-30])
        case "small depth":
            cv2.imwrite(str(depth), np.full((60, 80), 500, np.uint16))
        case "8-bit depth":
            cv2.imwrite(str(depth), np.full((120, 160), 200, np.uint8))
        case "zero depth":
            cv2.imwrite(str(depth), np.zeros((120, 160), np.uint16))
        case "empty mask":
            cv2.imwrite(str(mask), np.zeros((120, 160), np.uint8))
        case "too many objects":
            cv2.imwrite(str(mask), (np.arange(120 * 160) % 51).astype(np.uint8).reshape(120, 160))
        case "no focal length":
            camera.write_text(json.dumps({"K": [[0, 0, 80], [0, 100, 60], [0, 0, 1]]}))
        case "missing mask":
            mask.unlink()
        case "crop outside":
            files += ["--crop", "0", "121", "0", "160"]
        case "no rgb option":
            files = files[2:]
        case "frame without folder":
            files += ["--frame", "scene"]
        case "folder and files":
            files = [str(rgb.parent), *files]
    line = failing_command(run_options(tiny_path, files, tmp_path / "out"))
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "verify"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("flipped", "octree_encoder.onnx: its SHA-256"),
        ("missing", "decoder_4.onnx is missing"),
        ("no json", "manifest.json is damaged"),
        ("newer", "upgrade it (pip install -U zerograsp-edge)"),
        ("escape", "lies outside the bundle"),
        ("no graph", "ONNX Runtime refused it"),
        ("absent", "no bundle at"),
    ],
)
def test_commands_on_bad_bundles(
    bundle_copy: Path,
    edit_manifest: EditManifest,
    frame: Frame,
    frame_files: FilesOf,
    failing_command: Failing,
    tmp_path: Path,
    command: str,
    damage: str,
    message: str,
) -> None:
    stage = bundle_copy / "octree_encoder.onnx"
    match damage:
        case "flipped":
            data = bytearray(stage.read_bytes())
            data[len(data) // 2] ^= 0x10
            stage.write_bytes(data)
        case "missing":
            (bundle_copy / "decoder_4.onnx").unlink()
        case "no json":
            (bundle_copy / MANIFEST).write_text("{")
        case "newer":
            edit_manifest(bundle_copy, lambda m: m.update(version=VERSION + 1))
        case "escape":
            edit_manifest(bundle_copy, lambda m: m["files"].update({"../x": "0"}))
        case "no graph":
            stage.write_bytes(stage.read_bytes()[:-50])
            edit_manifest(bundle_copy, lambda m: None)
        case "absent":
            shutil.rmtree(bundle_copy)
    arguments = run_options(bundle_copy, frame_files(frame), tmp_path / "out")
    assert message in failing_command(arguments if command == "run" else ["verify", str(bundle_copy)])


def test_run_command_on_a_frame_beyond_the_limits(
    bundle_copy: Path,
    edit_manifest: EditManifest,
    frame: Frame,
    frame_files: FilesOf,
    failing_command: Failing,
    tmp_path: Path,
) -> None:
    arguments = run_options(bundle_copy, frame_files(frame), tmp_path / "out")
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_nodes=512))
    assert "max_nodes = 512" in failing_command(arguments)
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_width=159))
    assert "max_width = 159" in failing_command(arguments)


def test_run_command_with_nan_weights(
    bundle_copy: Path,
    edit_manifest: EditManifest,
    frame: Frame,
    frame_files: FilesOf,
    failing_command: Failing,
    tmp_path: Path,
) -> None:
    test_nan_weights(bundle_copy, edit_manifest, frame, "decoder_5")
    line = failing_command(run_options(bundle_copy, frame_files(frame), tmp_path / "out"))
    assert "logits" in line and "NaN" in line and "zerograsp-edge verify" in line


def test_output_folder_that_is_a_file(
    tiny_path: Path, frame: Frame, frame_files: FilesOf, failing_command: Failing, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    assert "cannot be made" in failing_command(run_options(tiny_path, frame_files(frame), tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_unexpected_errors_are_one_line_too(
    tiny_path: Path, failing_command: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zerograsp_edge.runtime import cli, verify

    def fail(*_: object) -> None:
        raise RuntimeError("something\n  over two lines")

    monkeypatch.setattr(verify, "verify", fail)
    line = failing_command(["verify", str(tiny_path)])
    assert line == "error: RuntimeError: something over two lines (ZEROGRASP_DEBUG=1 shows where)"
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(RuntimeError):
        cli.main(["verify", str(tiny_path)])


def test_errors_share_a_base() -> None:
    assert issubclass(BundleError, ZeroGraspError) and issubclass(LimitError, ZeroGraspError)
