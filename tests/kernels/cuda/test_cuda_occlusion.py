"""The CUDA occlusion field, run on the CPU, against its NumPy twin, the CPU kernel and the published flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from generators import Arguments, random_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from test_occlusion import golden_scene, wall

from zerograsp_edge.kernels.occlusion import occlusion_field
from zerograsp_edge.kernels.reference.occlusion import occlusion_field as reference_field

LABEL_OUT_OF_RANGE, OBJECT_OUT_OF_RANGE = 4, 8  # ZgStatus
UNTOUCHED = -7.0


def field(
    cuda: Library, scene: Arguments, half: bool = False, spare: int | None = None
) -> tuple[np.ndarray, int]:
    """Flags, with `spare` more rows, and the status."""
    scene = {"edge": 80.0, "resolution": 8, **scene}
    n, r, objects = len(scene["centres"]), scene["resolution"], len(scene["adjacency"])
    height, width = scene["depth"].shape
    more = spare or 0
    out = np.full((n + more, 2, r, r, r), UNTOUCHED, np.float16 if half else np.float32)
    centres = np.concatenate([scene["centres"], np.full((more, 3), np.nan, np.float32)])
    owner = np.concatenate([scene["object_index"], np.full(more, 10**6, np.int32)])
    status = np.zeros(1, np.int32)
    workspace = np.full(cuda.occlusion_field_workspace(height, width, objects), 0x7F, np.uint8)
    cuda.occlusion_field(
        int(half), centres, owner, n + more, None if spare is None else count_of(n), scene["depth"], scene["labels"],
        height, width, scene["adjacency"], objects, scene["intrinsics"], scene["edge"], r, out, status, workspace,
        workspace.size,
    )  # fmt: skip
    assert (out[n:] == UNTOUCHED).all()
    return out[:n], int(status[0])


@settings(max_examples=5 if SANITIZED else 40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from(SEEDS),
    half=st.booleans(),
    spare=st.sampled_from([None, 0, 2]),
    objects=st.integers(1, 5),
    size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    resolution=st.sampled_from([1, 2, 3, 4]),
    edge=st.sampled_from([10.0, 33.3, 80.0, 200.0]),
    reach=st.sampled_from([(200.0, 700.0), (350.0, 550.0), (-100.0, 150.0)]),
)
def test_equals_the_reference(seed: int, order: int, half: bool, spare: int | None, **scene: Any) -> None:
    arguments, cuda = random_scene(seed, nodes=2, **scene), library()
    cuda.seed(order)
    flags, status = field(cuda, arguments, half, spare)
    assert status == 0
    np.testing.assert_array_equal(flags, reference_field(**arguments))


@pytest.mark.parametrize("seed", range(1 if SANITIZED else 4))
def test_equals_the_cpu_kernel_on_larger_images(seed: int) -> None:
    arguments = random_scene(seed, nodes=30, objects=6, resolution=8, size=(200, 240), reach=(300.0, 600.0))
    flags, _ = field(library(), arguments)
    assert 0.02 < flags.mean() < 0.98
    np.testing.assert_array_equal(flags, occlusion_field(**arguments))


@pytest.mark.parametrize(("owner", "channel"), [(0, 0), (1, 1), (2, None), (-1, None)])
def test_a_wall_hides_what_lies_behind_it(owner: int, channel: int | None) -> None:
    expected = np.zeros((1, 2, 8, 8, 8), np.float32)
    if channel is not None:
        expected[:, channel, :, :, 4:] = 1
    np.testing.assert_array_equal(field(library(), wall(505.0, owner))[0], expected)


@pytest.mark.slow
def test_gives_the_published_flags(golden: dict[str, np.ndarray], frames_dir: Path) -> None:
    flags, status = field(library(), golden_scene(golden, frames_dir))
    nodes, cells, channels = golden["ofe/shape"]
    published = np.unpackbits(golden["ofe/bits"])[: nodes * cells * channels].reshape(nodes, cells, channels)
    assert status == 0
    np.testing.assert_array_equal(flags.reshape(nodes, 2, cells).transpose(0, 2, 1), published)


def test_no_nodes_and_no_objects() -> None:
    scene = random_scene(0)
    scene["centres"], scene["object_index"] = np.empty((0, 3), np.float32), np.empty(0, np.int32)
    assert field(library(), scene)[0].shape == (0, 2, 4, 4, 4)
    scene["labels"], scene["adjacency"] = np.full_like(scene["labels"], -1), np.empty((0, 0), np.uint8)
    assert field(library(), scene) == (pytest.approx(np.empty((0, 2, 4, 4, 4))), 0)


def test_the_status_names_what_only_the_device_sees() -> None:
    scene, cuda = random_scene(3), library()
    good, _ = field(cuda, scene)
    labels = scene["labels"].copy()
    labels[labels == 2] = -1
    expected, _ = field(cuda, {**scene, "labels": labels})
    labels[scene["labels"] == 2] = 1000
    flags, status = field(cuda, {**scene, "labels": labels})
    assert status == LABEL_OUT_OF_RANGE
    np.testing.assert_array_equal(flags, expected)
    owner = scene["object_index"].copy()
    owner[1] = -1
    flags, status = field(cuda, {**scene, "object_index": owner})
    assert status == OBJECT_OUT_OF_RANGE
    assert not flags[1].any()
    np.testing.assert_array_equal(flags[[0, 2]], good[[0, 2]])


def test_launchers_name_the_argument() -> None:
    scene, cuda = random_scene(1), library()
    for change, text in [
        ({"resolution": 33}, "resolution: expected 1 to 32, got 33"),
        ({"edge": 0.0}, "edge: expected a length in mm, got 0"),
        ({"edge": np.nan}, "edge: expected a length in mm, got nan"),
        ({"intrinsics": None}, "intrinsics: expected device memory, got null"),
    ]:
        with pytest.raises(CudaError, match=text):
            field(cuda, {**scene, **change})


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize(
    "change",
    [
        ("x << shift, ((x + 1) << shift) - 1", "x << shift, (x << shift) + 1"),  # cells believed to be smaller
        ("constexpr int kLevels = 3, kBaseShift = 2", "constexpr int kLevels = 3, kBaseShift = 3"),
    ],
)
def test_planted_mistakes_are_found(change: tuple[str, str]) -> None:
    """These tests would notice a pyramid that is slightly wrong."""
    broken, wrong = planted("occlusion", *change), 0
    for seed in range(6):
        arguments = random_scene(seed, nodes=20, objects=4, resolution=8, size=(100, 120), reach=(300.0, 600.0))
        wrong += (field(broken, arguments)[0] != occlusion_field(**arguments)).any()
    assert wrong
