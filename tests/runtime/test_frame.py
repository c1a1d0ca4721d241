"""Frames: what is accepted, what is repaired and counted, and a precise error for everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.errors import FrameError, ZeroGraspError
from zerograsp_edge.runtime.frame import Frame, check_object_count

H, W = 48, 64
K = np.array([[60, 0, 31.5], [0, 61, 23.5], [0, 0, 1]], np.float32)


def arrays(**changes: Any) -> dict[str, Any]:
    mask = np.zeros((H, W), np.uint8)
    mask[10:20, 10:20], mask[25:40, 30:50] = 7, 3
    return {
        "rgb": np.zeros((H, W, 3), np.uint8),
        "depth": np.full((H, W), 500, np.float32),
        "intrinsics": K,
        "mask": mask,
        **changes,
    }


def changed(matrix: np.ndarray, index: tuple[int, int], value: float) -> np.ndarray:
    matrix = matrix.copy()
    matrix[index] = value
    return matrix


def test_objects_are_the_distinct_values_without_the_smallest() -> None:
    frame = Frame(**arrays())
    assert frame.object_ids() == (3, 7)
    assert frame.background_id == 0
    labels = frame.label_image()
    assert labels.dtype == np.int32
    assert labels[0, 0] == -1 and labels[15, 15] == 1 and labels[30, 40] == 0


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint8, (5, 9, 255)),
        (np.uint16, (0, 1, 65535)),
        (np.int32, (-4, 0, 12)),
        (np.int64, (-1, 0, 1 << 40)),
        (np.int16, (-32768, 0, 32767)),
        (np.uint32, (7, 100, 1 << 31)),
    ],
)
def test_any_integer_mask(dtype: Any, values: tuple[int, int, int]) -> None:
    mask = np.full((H, W), values[0], dtype)
    mask[:5], mask[30:] = values[2], values[1]
    frame = Frame(**arrays(mask=mask))
    assert frame.object_ids() == values[1:]
    expected = np.full((H, W), -1)
    expected[:5], expected[30:] = 1, 0
    np.testing.assert_array_equal(frame.label_image(), expected)


def test_bool_mask_is_one_object() -> None:
    assert Frame(**arrays(mask=arrays()["mask"] == 3)).object_ids() == (1,)


def test_background_can_be_named() -> None:
    frame = Frame(**arrays(background=3))
    assert frame.object_ids() == (0, 7)
    assert frame.label_image()[30, 40] == -1


def test_uint16_and_float64_depth_become_float32_millimetres() -> None:
    for dtype in (np.uint16, np.float64):
        frame = Frame(**arrays(depth=np.full((H, W), 731, dtype)))
        assert frame.depth.dtype == np.float32
        assert (frame.depth == 731).all() and frame.repaired_depth == 0


def test_unmeasurable_depth_is_zeroed_and_counted() -> None:
    depth = np.full((H, W), 500, np.float32)
    depth[0, :4] = [np.nan, np.inf, -np.inf, -3]
    frame = Frame(**arrays(depth=depth))
    assert frame.repaired_depth == 4
    assert (frame.depth[0, :4] == 0).all() and (frame.depth[1:] == 500).all()
    assert np.isnan(depth[0, 0])  # the caller's array is left alone
    beyond_float32 = depth.astype(np.float64)
    beyond_float32[0, :4] = 1e300
    assert Frame(**arrays(depth=beyond_float32)).repaired_depth == 4


def test_valid_arrays_are_not_copied() -> None:
    given = arrays()
    frame = Frame(**given)
    assert frame.rgb is given["rgb"] and frame.depth is given["depth"] and frame.mask is given["mask"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": np.zeros((H, W, 3), np.float32)}, "rgb must be a uint8 array, got an array of float32"),
        ({"rgb": [[0]]}, "rgb must be a uint8 array, got list"),
        ({"rgb": np.zeros((H, W), np.uint8)}, r"rgb must have shape \(H, W, 3\), got \(48, 64\)"),
        ({"rgb": np.zeros((H, W, 4), np.uint8)}, r"\(48, 64, 4\)"),
        ({"rgb": np.zeros((0, W, 3), np.uint8)}, "rgb must have shape"),
        ({"depth": np.ones((H, W - 1), np.float32)}, r"\(48, 64\) \(rows, columns\), got \(48, 63\)"),
        ({"depth": np.ones((H, W, 1), np.float32)}, "depth must have the size of rgb"),
        (
            {"depth": np.ones((H, W), np.uint8)},
            "depth must be float32 or uint16 millimetres, got an array of uint8",
        ),
        ({"depth": np.ones((H, W), np.int32)}, "got an array of int32"),
        ({"depth": np.zeros((H, W), np.float32)}, "depth has no valid pixel"),
        ({"depth": np.full((H, W), np.nan, np.float32)}, "depth has no valid pixel"),
        ({"depth": np.full((H, W), 0.7, np.float32)}, "are these metres"),
        ({"intrinsics": np.eye(4)}, r"shape \(3, 3\), got \(4, 4\)"),
        ({"intrinsics": "K"}, "3x3 matrix of numbers"),
        ({"intrinsics": changed(K, (0, 0), np.nan)}, "finite"),
        ({"intrinsics": changed(K, (0, 2), np.inf)}, "finite"),
        ({"intrinsics": changed(K, (0, 0), 0)}, "must be positive, got fx = 0"),
        ({"intrinsics": changed(K, (1, 1), -60)}, "fy = -60"),
        ({"intrinsics": changed(K, (0, 1), 0.5)}, "no skew"),
        ({"intrinsics": changed(K, (1, 0), 0.5)}, "intrinsics must be"),
        ({"intrinsics": changed(K, (2, 2), 2)}, "intrinsics must be"),
        ({"intrinsics": changed(K, (0, 0), 0.9)}, "not in pixels"),
        ({"intrinsics": changed(K, (0, 2), 900)}, "far outside the 64x48 picture"),
        ({"intrinsics": changed(K, (1, 2), -90)}, "far outside"),
        ({"mask": np.zeros((H, W), np.float32)}, "integer instance ids, got an array of float32"),
        ({"mask": np.zeros((H, W, 3), np.uint8)}, "mask must have the size of rgb"),
        ({"mask": np.zeros((W, H), np.uint8)}, r"got \(64, 48\)"),
        ({"mask": np.full((H, W), 4, np.uint8)}, "every pixel is background, 4"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FrameError, match=message) as caught:
        Frame(**arrays(**changes))
    assert isinstance(caught.value, ZeroGraspError) and isinstance(caught.value, ValueError)


def test_frame_without_mask_says_so_when_asked_for_objects() -> None:
    frame = Frame(**arrays(mask=None, name="left"))
    with pytest.raises(FrameError, match="'left' has no instance mask"):
        frame.object_ids()
    assert frame.with_mask(arrays()["mask"]).object_ids() == (3, 7)


def test_crop_moves_the_principal_point() -> None:
    frame = Frame(**arrays())
    part = frame.crop(top=14, bottom=44, left=5, right=60)
    assert (part.height, part.width) == (30, 55)
    np.testing.assert_allclose(part.intrinsics, [[60, 0, 26.5], [0, 61, 9.5], [0, 0, 1]])
    np.testing.assert_allclose(part.point_image(), frame.point_image()[14:44, 5:60], rtol=1e-5)
    np.testing.assert_array_equal(part.label_image(), frame.label_image()[14:44, 5:60])


def test_crop_inside_one_object_keeps_it_an_object() -> None:
    frame = Frame(**arrays()).crop(10, 20, 10, 20)
    assert frame.object_ids() == (7,)


@pytest.mark.parametrize("rows", [(10, 10), (-1, 20), (0, H + 1), (30, 20)])
def test_bad_crop_is_named(rows: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="does not lie inside"):
        Frame(**arrays()).crop(*rows)


def test_points_follow_the_pinhole_model() -> None:
    depth = np.full((H, W), 500, np.float32)
    depth[5, 9] = 840
    points = Frame(**arrays(depth=depth)).point_image()
    np.testing.assert_allclose(points[5, 9], [(9 - 31.5) / 60 * 840, (5 - 23.5) / 61 * 840, 840], rtol=1e-6)


def test_too_many_objects() -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[0, :41] = np.arange(1, 42)
    with pytest.raises(FrameError, match="41 objects, the bundle's limit is 40"):
        check_object_count(Frame(**arrays(mask=mask)).object_ids(), 40)
    check_object_count(Frame(**arrays()).object_ids(), 2)
