"""The native occlusion field against its NumPy twin, the published network's flags, and its own contract."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from generators import Arguments, random_scene
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels.occlusion import occlusion_field
from zerograsp_edge.kernels.reference.occlusion import occlusion_field as reference_field


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    objects=st.integers(1, 5),
    size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    resolution=st.sampled_from([1, 2, 3, 4]),
    edge=st.sampled_from([10.0, 33.3, 80.0, 200.0]),
    reach=st.sampled_from([(200.0, 700.0), (350.0, 550.0), (-100.0, 150.0)]),
)
def test_equals_the_reference(seed: int, **scene: Any) -> None:
    arguments = random_scene(seed, nodes=2, **scene)
    np.testing.assert_array_equal(occlusion_field(**arguments), reference_field(**arguments))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference_at_the_published_resolution(seed: int) -> None:
    arguments = random_scene(seed, nodes=2, resolution=8, size=(60, 80), reach=(380.0, 520.0))
    flags = occlusion_field(**arguments)
    assert 0.005 < flags.mean() < 0.995  # the comparison below would mean little without both kinds
    np.testing.assert_array_equal(flags, reference_field(**arguments))


def test_forty_objects() -> None:
    arguments = random_scene(7, nodes=40, objects=40, resolution=2, size=(64, 64))
    flags = occlusion_field(**arguments)
    assert flags[:, 0].any()
    assert flags[:, 1].any()
    np.testing.assert_array_equal(flags, reference_field(**arguments))


def wall(depth: float, owner: int = 0) -> Arguments:
    """One 80 mm node at 500 mm on the optical axis, and a wall of one object over the whole image."""
    return {
        "centres": np.array([[0, 0, 500]], np.float32),
        "object_index": np.array([0], np.int32),
        "depth": np.full((100, 120), depth, np.float32),
        "labels": np.full((100, 120), owner, np.int32),
        "adjacency": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.uint8),
        "intrinsics": np.array([[300, 0, 60], [0, 320, 50], [0, 0, 1]], np.float32),
    }


@pytest.mark.parametrize(("owner", "channel"), [(0, 0), (1, 1), (2, None), (-1, None)])
def test_a_wall_hides_what_lies_behind_it(owner: int, channel: int | None) -> None:
    flags = occlusion_field(**wall(505.0, owner))
    expected = np.zeros((1, 2, 8, 8, 8), np.float32)
    if channel is not None:
        expected[:, channel, :, :, 4:] = 1  # the sub-voxels from z = 500..510 mm on reach behind 505 mm
    np.testing.assert_array_equal(flags, expected)


def test_invalid_depth_hides_nothing() -> None:
    for value in (0.0, 10.0, -1.0, np.nan, np.inf):
        assert not occlusion_field(**wall(value)).any()
    assert occlusion_field(**wall(np.nextafter(np.float32(10), np.float32(11)))).any(axis=1).all()


def test_sub_voxels_at_or_behind_the_camera_have_no_flags() -> None:
    arguments = wall(12.0)
    arguments["centres"] = np.array([[0, 0, 30], [0, 0, 0], [0, 0, -500]], np.float32)
    arguments["object_index"] = np.zeros(3, np.int32)
    flags = occlusion_field(**arguments)
    # The first node's sub-voxels start at z = -10, 0, 10 ... mm; the third reaches behind 12 mm.
    assert not flags[0, 0, :, :, :2].any()
    assert flags[0, 0, 3:5, 3:5, 2:].all()
    assert not flags[1, 0, :, :, :4].any()
    assert not flags[2].any()


def test_no_nodes_and_no_objects() -> None:
    arguments = random_scene(0)
    arguments["centres"], arguments["object_index"] = np.empty((0, 3), np.float32), np.empty(0, np.int32)
    assert occlusion_field(**arguments).shape == (0, 2, 4, 4, 4)
    arguments["labels"] = np.full_like(arguments["labels"], -1)
    arguments["adjacency"] = np.empty((0, 0), np.uint8)
    assert occlusion_field(**arguments).shape == (0, 2, 4, 4, 4)


def test_result_does_not_depend_on_threads() -> None:
    arguments = random_scene(3, nodes=50, objects=6, resolution=8, size=(200, 240))
    single = occlusion_field(**arguments, threads=1)
    assert single.any()
    for threads in (0, 2, 5):
        np.testing.assert_array_equal(occlusion_field(**arguments, threads=threads), single)


def test_scratch_memory_keeps_nothing_of_earlier_frames() -> None:
    scenes = [
        random_scene(0, nodes=20, objects=6, size=(120, 160), resolution=8),
        random_scene(1, nodes=1, objects=1, size=(5, 7), resolution=2),
        random_scene(2, nodes=30, objects=12, size=(90, 40), resolution=4),
        random_scene(3, nodes=0, objects=3, size=(8, 8), resolution=4),
        random_scene(4, nodes=20, objects=3, size=(240, 320), resolution=8),
    ]

    def fresh(arguments: Arguments) -> np.ndarray:
        with ThreadPoolExecutor(1) as thread:  # a new thread starts with new scratch memory
            return thread.submit(occlusion_field, **arguments).result()

    expected = [fresh(scene) for scene in scenes]
    for i in (0, 1, 2, 3, 4, 1, 0, 4, 2):
        np.testing.assert_array_equal(occlusion_field(**scenes[i]), expected[i])


def test_concurrent_calls_do_not_share_scratch_memory() -> None:
    scenes = [random_scene(i, nodes=30, objects=4, size=(100, 100 + i)) for i in range(4)]
    expected = [occlusion_field(**scene) for scene in scenes]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: occlusion_field(**scenes[i % 4], threads=1), range(40)))
    for i, flags in enumerate(results):
        np.testing.assert_array_equal(flags, expected[i % 4])


def test_large_masks_are_cut_out_in_bands_and_batches() -> None:
    """Masks all over a large image: several tasks build one cut-out, and the cut-outs exceed one batch."""
    rng = np.random.default_rng(0)
    arguments = random_scene(5, nodes=24, objects=6, size=(900, 1200), resolution=2)
    arguments["object_index"] = np.repeat(np.arange(6), 4).astype(np.int32)
    flags = occlusion_field(**arguments, threads=2)
    assert 0.05 < flags.mean() < 0.95
    for node in rng.permutation(24)[:6]:
        alone = {key: arguments[key][[node]] for key in ("centres", "object_index")}
        np.testing.assert_array_equal(flags[[node]], reference_field(**{**arguments, **alone}))


def test_writes_into_out() -> None:
    arguments = random_scene(1)
    out = np.full((3, 2, 4, 4, 4), 7, np.float32)
    assert occlusion_field(**arguments, out=out) is out
    np.testing.assert_array_equal(out, occlusion_field(**arguments))


def skewed(value: float, row: int, column: int) -> np.ndarray:
    matrix = random_scene(1)["intrinsics"]
    matrix[row, column] = value
    return matrix


BAD = {
    "centres is a list": ("centres", [[0, 0, 500]], TypeError),
    "centres is float64": ("centres", np.zeros((3, 3)), TypeError),
    "centres has 2 columns": ("centres", np.zeros((3, 2), np.float32), ValueError),
    "centres is not finite": ("centres", np.full((3, 3), np.nan, np.float32), ValueError),
    "centres is strided": ("centres", np.zeros((3, 6), np.float32)[:, ::2], ValueError),
    "object_index is int64": ("object_index", np.zeros(3, np.int64), TypeError),
    "object_index is short": ("object_index", np.zeros(2, np.int32), ValueError),
    "object_index is too large": ("object_index", np.full(3, 3, np.int32), ValueError),
    "object_index is negative": ("object_index", np.full(3, -1, np.int32), ValueError),
    "depth is uint16": ("depth", np.zeros((32, 40), np.uint16), TypeError),
    "depth has channels": ("depth", np.zeros((32, 40, 1), np.float32), ValueError),
    "labels is uint8": ("labels", np.zeros((32, 40), np.uint8), TypeError),
    "labels has another size": ("labels", np.zeros((40, 32), np.int32), ValueError),
    "labels is too large": ("labels", np.full((32, 40), 3, np.int32), ValueError),
    "labels is too small": ("labels", np.full((32, 40), -2, np.int32), ValueError),
    "adjacency is bool": ("adjacency", np.zeros((3, 3), bool), TypeError),
    "adjacency is not square": ("adjacency", np.zeros((3, 2), np.uint8), ValueError),
    "adjacency has a diagonal": ("adjacency", np.eye(3, dtype=np.uint8), ValueError),
    "intrinsics is 3x4": ("intrinsics", np.zeros((3, 4), np.float32), ValueError),
    "intrinsics has skew": ("intrinsics", skewed(0.5, 0, 1), ValueError),
    "intrinsics is projective": ("intrinsics", skewed(0.5, 2, 0), ValueError),
    "intrinsics has no focal length": ("intrinsics", skewed(0.0, 1, 1), ValueError),
    "intrinsics is not finite": ("intrinsics", skewed(np.inf, 0, 2), ValueError),
    "edge is zero": ("edge", 0.0, ValueError),
    "edge is not finite": ("edge", np.nan, ValueError),
    "resolution is zero": ("resolution", 0, ValueError),
    "resolution is too large": ("resolution", 33, ValueError),
    "threads is negative": ("threads", -1, ValueError),
    "out is float64": ("out", np.zeros((3, 2, 4, 4, 4)), TypeError),
    "out has another shape": ("out", np.zeros((3, 2, 64), np.float32), ValueError),
}


@pytest.mark.parametrize("case", BAD)
def test_names_the_bad_argument(case: str) -> None:
    name, value, error = BAD[case]
    with pytest.raises(error, match=f"^{name}: expected "):
        occlusion_field(**{**random_scene(1), name: value})


def test_rejects_an_empty_image_and_a_read_only_out() -> None:
    empty = {**random_scene(1), "depth": np.empty((0, 4), np.float32), "labels": np.empty((0, 4), np.int32)}
    with pytest.raises(ValueError, match=r"^depth: expected .* \(0, 4\)"):
        occlusion_field(**empty)
    out = np.zeros((3, 2, 4, 4, 4), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: expected a writeable"):
        occlusion_field(**random_scene(1), out=out)


def golden_scene(golden: dict[str, np.ndarray], frames: Path) -> Arguments:
    case = str(golden["case"])
    depth = cv2.imread(str(frames / f"{case}.depth.png"), cv2.IMREAD_UNCHANGED)
    palette = cv2.imread(str(frames / f"{case}.mask.png"), cv2.IMREAD_COLOR)
    assert depth is not None
    assert palette is not None
    # PASCAL VOC palette: the bits of object n are the highest bits of R, G, B.
    ids = (np.asarray(palette, np.uint8) >> 7) @ np.array([4, 2, 1])
    if case == "007":
        depth, ids = depth[14:526], ids[14:526]
    labels = np.full(ids.shape, -1, np.int32)
    for index, object_id in enumerate(golden["obj_ids"]):
        labels[ids == object_id] = index
    count = len(golden["obj_ids"])
    kernel = np.ones((5, 5), np.uint8)
    wide = [np.asarray(cv2.dilate((labels == i).astype(np.uint8), kernel), bool) for i in range(count)]
    adjacency = [[i != j and bool((wide[i] & wide[j]).any()) for j in range(count)] for i in range(count)]

    keys = golden["in/keys4"] & ((1 << 48) - 1)
    cells = np.zeros((len(keys), 3), np.int64)
    for bit in range(4):
        for axis in range(3):
            cells[:, axis] |= (keys >> (3 * bit + 2 - axis) & 1) << bit
    origin = np.array([-640, -640, golden["z_min"][0]])
    return {
        "centres": ((cells + 0.5) * 80 + origin).astype(np.float32),
        "object_index": (golden["in/keys4"] >> 48).astype(np.int32),
        "depth": np.ascontiguousarray(depth, np.float32),
        "labels": labels,
        "adjacency": np.array(adjacency, np.uint8),
        "intrinsics": golden["K"].astype(np.float32),
    }


def test_gives_the_published_flags(golden: dict[str, np.ndarray], frames_dir: Path) -> None:
    scene = golden_scene(golden, frames_dir)
    flags = occlusion_field(**scene)
    nodes, cells, channels = golden["ofe/shape"]
    published = np.unpackbits(golden["ofe/bits"])[: nodes * cells * channels].reshape(nodes, cells, channels)
    # Exactly: only IEEE float32 without fused multiply-adds decides (with them 1 flag in 20,000 differs).
    np.testing.assert_array_equal(flags.reshape(nodes, 2, cells).transpose(0, 2, 1), published)
    sample = {**scene, "centres": scene["centres"][5:7], "object_index": scene["object_index"][5:7]}
    np.testing.assert_array_equal(flags[5:7], reference_field(**sample))
