"""The whole GPU path, end to end and numerically, on a machine without a GPU: against the CPU's results.

Kernels are the CUDA sources on the CPU, engines the same ONNX stages in ONNX Runtime; work is deferred until
the runtime waits for it, so a missing wait, a buffer that is overwritten too early or a wrong count shows as
a wrong result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from gpu_double import Gpu, add_engines

from zerograsp_edge.runtime.bundle import Bundle, load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.engines import EngineError
from zerograsp_edge.runtime.errors import DecodeError, DeviceError, FrameError, LimitError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.verify import verify

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]

UPLOADS, DOWNLOADS = "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"
WAITS = ("cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize")
ALLOCATIONS = (
    "cuMemAlloc_v2",
    "cuMemHostAlloc",
    "cuEventCreate",
    "cuStreamCreate",
    "cuMemFree_v2",
    "cuMemFreeHost",
)


def same(gpu: Result, cpu: Result, tolerance: float = 1.0) -> None:
    """Equal octrees; surfaces and grasps within rounding."""
    assert [o.object_id for o in gpu.objects] == [o.object_id for o in cpu.objects]
    assert gpu.skipped == cpu.skipped
    assert gpu.z_min == cpu.z_min
    assert sum(len(o.points) for o in cpu.objects) > 0
    for a, b in zip(gpu.objects, cpu.objects, strict=True):
        np.testing.assert_array_equal(a.nodes, b.nodes)
        assert (a.index, a.voxel_size) == (b.index, b.voxel_size)
        np.testing.assert_array_equal(a.origin, b.origin)
        for name, bound in {"points": 2e-3, "normals": 1e-4, "sdf": 1e-3}.items():
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=0, atol=bound * tolerance, err_msg=name)
        np.testing.assert_allclose(
            a.grasps.to_graspnet(), b.grasps.to_graspnet(), rtol=0, atol=1e-3 * tolerance
        )


def changed(frame: Frame, **changes: Any) -> Frame:
    arrays = {
        "rgb": frame.rgb,
        "depth": frame.depth,
        "intrinsics": frame.intrinsics,
        "mask": frame.mask,
    } | changes
    return Frame(
        arrays.pop("rgb"), arrays.pop("depth"), arrays.pop("intrinsics"), arrays.pop("mask"), **arrays
    )


@pytest.fixture
def device(gpu: Gpu, tiny_with_engines: Bundle) -> Pipeline:
    return Pipeline(tiny_with_engines, backend="tensorrt")


@pytest.fixture
def engines_for(bundle_copy: Path, edit_manifest: EditManifest) -> Callable[..., Bundle]:
    """The tiny bundle with other limits, and engines for them."""

    def make(**limits: int) -> Bundle:
        edit_manifest(bundle_copy, lambda m: m["limits"].update(limits))
        return add_engines(load_bundle(bundle_copy))

    return make


# Results


def test_frames_of_several_sizes(
    device: Pipeline, frame: Frame, other_frame: Frame, pipeline: Pipeline
) -> None:
    assert device.executor.name == "tensorrt" and device.fallback is None
    cropped = frame.crop(3, 101, 8, 155)
    for item in (frame, other_frame, cropped, frame, other_frame, cropped):
        same(device(item), pipeline(item))


def test_scenes(device: Pipeline, pipeline: Pipeline) -> None:
    for seed in range(20, 26):
        item = SimulatedCamera(seed, 1 + seed % 7, 160, 120).read()
        same(device(item), pipeline(item))


def test_depth_with_holes(device: Pipeline, other_frame: Frame, pipeline: Pipeline) -> None:
    """Where nothing was measured a mask still counts for which objects touch, and hides nothing."""
    rng = np.random.default_rng(3)
    depth = np.where(rng.random(other_frame.depth.shape) < 0.4, 0, other_frame.depth).astype(np.float32)
    depth[:, 60:75] = 0
    item = changed(other_frame, depth=depth)
    same(device(item), pipeline(item))


def test_results_stay_as_they_are(
    device: Pipeline, frame: Frame, other_frame: Frame, pipeline: Pipeline
) -> None:
    result = device(frame)
    for _ in range(3):
        device(other_frame)
    same(result, pipeline(frame))


def test_picture_that_has_to_be_padded(
    gpu: Gpu, bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, pipeline: Pipeline
) -> None:
    edit_manifest(bundle_copy, lambda m: m.update(image_multiple=32))
    bundle = add_engines(load_bundle(bundle_copy))
    item = frame.crop(0, 110, 0, 150)
    same(Pipeline(bundle, backend="tensorrt")(item), Pipeline(bundle, backend="onnxruntime", threads=2)(item))
    assert "pad_image" in gpu.launchers.launched


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.uint32])
def test_masks_of_every_type(device: Pipeline, frame: Frame, pipeline: Pipeline, dtype: type) -> None:
    assert frame.mask is not None
    item = changed(frame, mask=frame.mask.astype(dtype))
    same(device(item), pipeline(item))


@pytest.mark.parametrize(
    "values",
    [(-40000, -3, 7, 2**30), (0, 300, 301, 65535), (5, 1, 2, 9)],
    ids=["far apart", "wide", "background 5"],
)
def test_mask_values(device: Pipeline, frame: Frame, pipeline: Pipeline, values: tuple[int, ...]) -> None:
    assert frame.mask is not None
    mask = np.zeros(frame.mask.shape, np.int32)
    for old, new in zip((frame.background_id, *frame.object_ids()), values, strict=True):
        mask[frame.mask == old] = new
    item = changed(frame, mask=mask, background=values[0])
    result = device(item)
    assert [o.object_id for o in result.objects] == sorted(values[1:])
    same(result, pipeline(item))


def test_a_sample_of_the_prior_is_the_same_one(gpu: Gpu, tiny_with_engines: Bundle, frame: Frame) -> None:
    one, other = (
        Pipeline(tiny_with_engines, backend=backend, latent="sample", seed=3, threads=2)
        for backend in ("tensorrt", "onnxruntime")
    )
    first, expected = one(frame), other(frame)
    same(first, expected)
    second = one(frame)
    same(second, other(frame))
    assert any(not np.array_equal(a.sdf, b.sdf) for a, b in zip(first.objects, second.objects, strict=True))


def test_from_other_threads(device: Pipeline, frame: Frame, other_frame: Frame, pipeline: Pipeline) -> None:
    results: dict[int, Result] = {}

    def work(index: int, item: Frame) -> None:
        for _ in range(2):
            results[index] = device(item)

    threads = [Thread(target=work, args=(i, item)) for i, item in enumerate((frame, other_frame))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, item in enumerate((frame, other_frame)):
        same(results[index], pipeline(item))


def test_memory_shared_with_the_cpu_is_read_in_place(
    gpu: Gpu, tiny_with_engines: Bundle, frame: Frame, pipeline: Pipeline
) -> None:
    gpu.driver.reset(integrated=True)
    device = Pipeline(tiny_with_engines, backend="tensorrt")
    for _ in range(3):
        before = gpu.driver.count(f"{UPLOADS} bytes")
        same(device(frame), pipeline(frame))
        uploaded = gpu.driver.count(f"{UPLOADS} bytes") - before
        # Intrinsics and depth; neither picture nor mask.
        assert 4 * frame.depth.size <= uploaded < 4 * frame.depth.size + 2048


def test_half_precision(gpu: Gpu, tiny_path: Path, tmp_path: Path, frame: Frame, other_frame: Frame) -> None:
    from zerograsp_edge.export.convert import convert

    bundle = add_engines(convert(load_bundle(tiny_path), tmp_path / "half.zgb"))
    assert bundle.stages["octree_encoder"].dtypes["tokens"] == "float16"
    device, cpu = (Pipeline(bundle, backend=backend, threads=2) for backend in ("tensorrt", "onnxruntime"))
    for item in (frame, other_frame, frame):
        got, expected = device(item), cpu(item)
        # A rounding of the inputs may move a value to the next half.
        for a, b in zip(got.objects, expected.objects, strict=True):
            union = {*map(tuple, a.nodes)} | {*map(tuple, b.nodes)}
            common = {*map(tuple, a.nodes)} & {*map(tuple, b.nodes)}
            assert len(common) >= 0.98 * len(union)
            if len(common) == len(union):
                np.testing.assert_allclose(a.points, b.points, atol=0.5)


@pytest.mark.slow
def test_the_edge_model(gpu: Gpu, tmp_path: Path) -> None:
    path = Path(shutil.copytree(EDGE_MODEL, tmp_path / "edge.zgb"))
    bundle = add_engines(load_bundle(path))
    device, cpu = (Pipeline(bundle, backend=backend, threads=2) for backend in ("tensorrt", "onnxruntime"))
    item = SimulatedCamera(11, 3, 160, 120).read()
    for _ in range(2):
        same(device(item), cpu(item), tolerance=10)


# Grasps


REFINEMENTS = {
    "published": RefineConfig(),
    "everything": RefineConfig(
        min_score=-1.0, approach=ApproachCone(axis=(0, 0, 1), angle=80),
        support=Support((0, 0, -1), -0.75, thickness=0.01),
        visible_stride=3, max_per_object=5,
    ),
    "no path": RefineConfig(approach_distance=None, nms_distance=0),
}  # fmt: skip


@pytest.mark.parametrize("name", REFINEMENTS)
def test_grasps_are_refined_on_the_device(
    gpu: Gpu, tiny_with_engines: Bundle, frame: Frame, other_frame: Frame, name: str
) -> None:
    device, cpu = (
        Pipeline(tiny_with_engines, backend=backend, threads=2, refine=REFINEMENTS[name])
        for backend in ("tensorrt", "onnxruntime")
    )
    world = np.eye(4)
    world[:3, 3] = 0.02, -0.01, 0.03
    for item in (frame, other_frame, frame):
        got, expected = device(item, world), cpu(item, world)
        assert got.refinement is not None and expected.refinement is not None
        assert got.refinement.total == expected.refinement.total > 100
        # Of thousands of grasps a few lie on the edge of a decision.
        edge = max(2, expected.refinement.total // 200)
        for reason, count in expected.refinement.removed.items():
            assert abs(got.refinement.removed[reason] - count) <= edge, reason
        assert got.notes == expected.notes or got.refinement.removed != expected.refinement.removed
    assert {"visible_points", "refine_grasps"} <= set(gpu.launchers.launched)


def test_antipodal_grasps_are_made_by_the_cpu(gpu: Gpu, tiny_with_engines: Bundle, frame: Frame) -> None:
    refine = RefineConfig(antipodal=AntipodalConfig())
    device, cpu = (
        Pipeline(tiny_with_engines, backend=backend, threads=2, refine=refine)
        for backend in ("tensorrt", "onnxruntime")
    )
    got, expected = device(frame), cpu(frame)
    assert got.refinement is not None and expected.refinement is not None
    assert abs(got.refinement.total - expected.refinement.total) <= max(2, expected.refinement.total // 100)
    assert "refine_grasps" not in gpu.launchers.launched


# What is promised about calls


def test_a_frame_is_one_upload_one_read_a_depth_and_one_download(
    gpu: Gpu, device: Pipeline, frame: Frame, other_frame: Frame
) -> None:
    depths = len(device.bundle.geometry.depths)
    device(frame)
    device(other_frame)
    allocations = gpu.driver.counts(*ALLOCATIONS)
    contexts = gpu.tensorrt.contexts
    for item in (frame, other_frame, frame, frame):
        before = gpu.driver.counts(UPLOADS, DOWNLOADS, *WAITS)
        device(item)
        delta = {name: gpu.driver.count(name) - count for name, count in before.items()}
        assert delta == {
            UPLOADS: 1, DOWNLOADS: 1 + depths + 1, "cuStreamSynchronize": depths + 1, "cuEventSynchronize": 1,
            "cuCtxSynchronize": 0,
        }  # fmt: skip
    assert gpu.driver.counts(*ALLOCATIONS) == allocations
    assert gpu.tensorrt.contexts == contexts


def test_reads_are_small(gpu: Gpu, device: Pipeline, frame: Frame) -> None:
    result = device(frame)
    before = gpu.driver.count(f"{DOWNLOADS} bytes")
    result = device(frame)
    points = sum(len(o.points) for o in result.objects)
    results = points * (3 + 3 + 1 + 3 + 9 + 1 + 1 + 1 + 1) * 4
    assert gpu.driver.count(f"{DOWNLOADS} bytes") - before < results + 12 * 256 + 8192


def test_the_image_encoder_is_enqueued_before_the_first_wait(
    gpu: Gpu, device: Pipeline, frame: Frame
) -> None:
    device(frame)
    seen: list[list[str]] = []
    wait = device.perception._network.scene.wait

    def spy(*arguments: Any) -> Any:
        seen.append(list(gpu.tensorrt.enqueued))
        return wait(*arguments)

    device.perception._network.scene.wait = spy
    gpu.tensorrt.enqueued.clear()
    device(frame)
    assert seen == [["image_encoder"]]


def test_fixed_work_is_captured_once_per_size(
    gpu: Gpu, device: Pipeline, frame: Frame, other_frame: Frame
) -> None:
    cropped = frame.crop(0, 100, 0, 150)
    for item in (frame, other_frame, cropped):
        device(item)
    assert gpu.driver.count("cuGraphLaunch") == 0 + 1, (
        "the second frame of a size launches the image encoder's graph"
    )
    for item in (frame, other_frame, cropped):
        device(item)
    captured = gpu.driver.count("cuStreamBeginCapture_v2")
    # Image encoder: two sizes. Octree: two sizes, and another number of objects.
    assert captured == gpu.driver.count("cuGraphInstantiateWithFlags") == 2 + 3
    launched = gpu.driver.count("cuGraphLaunch")
    gpu.launchers.launched.clear()
    for item in (frame, other_frame, cropped):
        device(item)
    assert gpu.driver.count("cuStreamBeginCapture_v2") == captured
    assert gpu.driver.count("cuGraphLaunch") == launched + 6
    assert not {"points_from_depth", "build_octree", "active_grid"} & set(gpu.launchers.launched)


def test_work_that_cannot_be_captured_runs_without_a_graph(
    gpu: Gpu, device: Pipeline, frame: Frame, pipeline: Pipeline
) -> None:
    gpu.tensorrt.refuse_capture = True
    device(frame)
    with pytest.warns(UserWarning, match=r"runs without a CUDA graph.*could not enqueue"):
        same(device(frame), pipeline(frame))
    same(device(frame), pipeline(frame))
    assert all("while a stream captures" in violation for violation in gpu.driver.violations)
    gpu.driver.reset()


def test_old_graphs_are_destroyed(
    gpu: Gpu, device: Pipeline, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerograsp_edge.runtime.gpu.replay.MOST_GRAPHS", 1)
    other = frame.crop(0, 100, 0, 150)
    for item in (frame, frame, other, other, frame, frame):
        device(item)
    assert gpu.driver.count("cuGraphExecDestroy") > 0
    assert gpu.driver.count("cuGraphInstantiateWithFlags") > gpu.driver.count("cuGraphExecDestroy")


def test_timings_cover_every_part(device: Pipeline, frame: Frame) -> None:
    depths = device.bundle.geometry.depths
    for _ in range(2):
        timings = device(frame).timings
        assert {
            "staging", "upload", "points", "image_encoder", "voxel_features", "octree_encoder", "growth", "decode",
            "collect", *(f"decoder_{d}" for d in depths),
        } == set(timings)  # fmt: skip
        assert all(value >= 0 for value in timings.values())


# Objects that cannot be reconstructed


@pytest.mark.parametrize("points", [0, 1, 15, 16])
def test_object_with_too_few_points(device: Pipeline, frame: Frame, pipeline: Pipeline, points: int) -> None:
    assert frame.mask is not None
    rows, columns = np.nonzero(frame.mask == frame.object_ids()[1])
    depth = frame.depth.copy()
    depth[rows[points:], columns[points:]] = 0
    depth[rows[:points], columns[:points]] = 60  # nearer than everything else
    item = changed(frame, depth=depth)
    result = device(item)
    same(result, pipeline(item))
    if points < 16:
        assert [s.reason for s in result.skipped] == [
            f"{points} pixels with valid depth, at least 16 are needed"
        ]


def test_objects_outside_the_cube_and_sparse_ones(
    device: Pipeline, other_frame: Frame, pipeline: Pipeline
) -> None:
    assert other_frame.mask is not None
    ids = other_frame.object_ids()
    depth = other_frame.depth.copy()
    depth[other_frame.mask == ids[2]] = 0
    depth[other_frame.mask == ids[0]] = 5000
    depth[other_frame.mask == ids[4]] = 4000
    for item in (changed(other_frame, depth=depth), other_frame, changed(other_frame, depth=depth)):
        result, expected = device(item), pipeline(item)
        same(result, expected)
    assert [s.object_id for s in result.skipped] == sorted((ids[0], ids[2], ids[4]))


def test_an_object_beside_the_cube_that_is_the_nearest(
    device: Pipeline, frame: Frame, pipeline: Pipeline
) -> None:
    """It decides where the cube begins, although it is left out."""
    assert frame.mask is not None
    mask, depth = frame.mask.copy(), frame.depth.copy()
    intrinsics = frame.intrinsics.copy()
    intrinsics[0, 0] = intrinsics[1, 1] = 80  # a wide angle
    mask[:, :6], depth[:, :6] = 77, float(depth[depth > 10].min()) - 30
    item = changed(frame, mask=mask, depth=depth, intrinsics=intrinsics)
    result = device(item)
    same(result, pipeline(item))
    assert any(s.object_id == 77 and "outside" in s.reason for s in result.skipped)


def test_no_object_is_left(
    gpu: Gpu, device: Pipeline, frame: Frame, other_frame: Frame, pipeline: Pipeline
) -> None:
    assert frame.mask is not None
    depth = np.where(frame.mask == frame.background_id, frame.depth, 0).astype(np.float32)
    item = changed(frame, depth=depth)
    messages = []
    for runner in (device, pipeline):
        with pytest.raises(FrameError, match="has no object to reconstruct") as caught:
            runner(item)
        messages.append(str(caught.value))
        assert gpu.driver.library.double_pending() == 0, "nothing may still read what the next frame writes"
    assert messages[0] == messages[1]
    same(device(other_frame), pipeline(other_frame))


# Limits and faults


def test_more_nodes_than_the_limit(
    gpu: Gpu, engines_for: Callable[..., Bundle], frame: Frame, pipeline: Pipeline
) -> None:
    taps: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=taps)
    needed = max(len(taps["keys_6"]), len(taps["input_keys_6"]))
    same(Pipeline(engines_for(max_nodes=needed), backend="tensorrt")(frame), pipeline(frame))
    for nodes in (needed - 8, needed // 2):
        limited = Pipeline(engines_for(max_nodes=nodes), backend="tensorrt")
        for _ in range(2):
            with pytest.raises(
                LimitError, match=rf"exceeds the bundle's limit max_nodes = {nodes}: .*--max-nodes"
            ):
                limited(frame)


def test_the_input_octree_exceeds_the_limit(
    gpu: Gpu, engines_for: Callable[..., Bundle], frame: Frame, pipeline: Pipeline
) -> None:
    taps: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=taps)
    tokens = len(taps["input_keys_3"])
    limited = Pipeline(engines_for(max_tokens=tokens - 8), backend="tensorrt")
    with pytest.raises(
        LimitError,
        match=rf"limit max_tokens = {tokens - 8}: nodes of the input octree at depth 3.*--max-tokens",
    ):
        limited(frame)
    same(Pipeline(engines_for(max_tokens=tokens), backend="tensorrt")(frame), pipeline(frame))


def test_a_failed_frame_leaves_the_pipeline_as_it_was(
    gpu: Gpu, engines_for: Callable[..., Bundle], frame: Frame, other_frame: Frame, pipeline: Pipeline
) -> None:
    def most(item: Frame) -> int:
        taps: dict[str, np.ndarray] = {}
        pipeline.run(item, taps=taps)
        return max(len(taps["keys_6"]), len(taps["input_keys_6"]))

    small, large = sorted((frame, other_frame), key=most)
    assert most(small) < most(large)
    limited = Pipeline(engines_for(max_nodes=most(small)), backend="tensorrt")
    for _ in range(3):
        same(limited(small), pipeline(small))
        with pytest.raises(LimitError):
            limited(large)


@pytest.mark.parametrize("stage", ["image_encoder", "octree_encoder", "decoder_3", "decoder_5", "decoder_6"])
def test_nan_weights(
    gpu: Gpu, bundle_copy: Path, edit_manifest: EditManifest, frame: Frame, stage: str
) -> None:
    import onnx

    path = bundle_copy / f"{stage}.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
    onnx.save(model, path)
    edit_manifest(bundle_copy, lambda m: None)
    broken = Pipeline(add_engines(load_bundle(bundle_copy)), backend="tensorrt")
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"NaN|not finite"):
            broken(frame)


def test_a_kernel_that_fails_is_an_error_of_the_device(gpu: Gpu, device: Pipeline, frame: Frame) -> None:
    device(frame)
    gpu.driver.fail("cuEventSynchronize", 700)
    with pytest.raises(DeviceError, match=r"work on the GPU failed.*restart the program"):
        device(frame)


def test_too_little_memory(gpu: Gpu, tiny_with_engines: Bundle) -> None:
    gpu.driver.reset(memory=4_000_000)
    with pytest.raises(DeviceError, match=r"no memory for .* MB needed, .* of 4 MB free.*--max-nodes"):
        Pipeline(tiny_with_engines, backend="tensorrt")
    fallen = Pipeline(tiny_with_engines, threads=2)
    assert fallen.executor.name == "onnxruntime" and "no memory" in (fallen.fallback or "")


# Verification


def test_verify(gpu: Gpu, device: Pipeline, pipeline: Pipeline) -> None:
    report, expected = verify(device), verify(pipeline)
    assert report.backend == "tensorrt" and report.ok and expected.ok
    assert [t.name for t in report.tensors] == [t.name for t in expected.tensors]
    assert all(o.iou == 1 for o in report.octrees)


def test_taps_and_forced_splits(device: Pipeline, frame: Frame, pipeline: Pipeline) -> None:
    cpu: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=cpu)
    rng = np.random.default_rng(0)
    depth = device.bundle.geometry.min_lod
    forced = {depth: rng.random(len(cpu[f"keys_{depth}"])) < 0.02}
    taps: list[dict[str, np.ndarray]] = []
    for runner in (device, pipeline):
        taps.append({})
        runner.run(frame, forced_splits=forced, taps=taps[-1])
    assert taps[0].keys() == taps[1].keys()
    for name, expected in taps[1].items():
        got = taps[0][name]
        assert got.dtype == expected.dtype and got.shape == expected.shape, name
        if "keys" in name:
            np.testing.assert_array_equal(got, expected, err_msg=name)
        else:
            np.testing.assert_allclose(
                got, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())), err_msg=name
            )
    with pytest.raises(
        ValueError, match=r"forced splits of depth 3: expected .* bool array of shape .*, got"
    ):
        device.run(frame, forced_splits={depth: forced[depth][:-8]})


def test_commands(
    gpu: Gpu, tiny_with_engines: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, file = str(tiny_with_engines.path), tmp_path / "figures.json"
    assert main(["verify", bundle, "--backend", "tensorrt", "--json", str(file)]) == 0
    assert "on tensorrt" in capsys.readouterr().out and json.loads(file.read_text())["backend"] == "tensorrt"
    options = [
        "--backend",
        "tensorrt",
        "--source",
        "reference",
        "--frames",
        "2",
        "--warmup",
        "2",
        "--json",
        str(file),
    ]
    assert main(["profile", bundle, *options]) == 0
    output, figures = capsys.readouterr().out, json.loads(file.read_text())
    assert "CUDA events" in output and "gpu: Orin, compute capability 8.7" in output
    assert figures["device"] == {"gpu": "Orin, compute capability 8.7", "tensorrt": "10.3.0"}
    assert figures["parts"]["decoder_6"]["frames"] == 2


# Engines


def test_auto_takes_the_gpu_where_it_can(gpu: Gpu, tiny_with_engines: Bundle, tiny_path: Path) -> None:
    assert Pipeline(tiny_with_engines).executor.name == "tensorrt"
    without = Pipeline(load_bundle(tiny_path), threads=2)
    assert (without.executor.name, without.fallback) == ("onnxruntime", "the bundle has no TensorRT engines")


def test_engines_of_another_machine(gpu: Gpu, bundle_copy: Path) -> None:
    bundle = add_engines(load_bundle(bundle_copy), capability=(11, 0))
    with pytest.raises(EngineError, match=r"no engine runs .* here .*8\.7.*zerograsp-edge build"):
        Pipeline(bundle, backend="tensorrt")
    fallen = Pipeline(bundle, threads=2)
    assert fallen.executor.name == "onnxruntime" and "zerograsp-edge build" in (fallen.fallback or "")


@pytest.fixture(autouse=True)
def no_work_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test everything that was enqueued has run: nothing waits in a stream that nobody looks at."""
    gpu: Gpu | None = request.getfixturevalue("gpu") if "gpu" in request.fixturenames else None
    yield
    assert gpu is None or gpu.driver.library.double_pending() == 0
