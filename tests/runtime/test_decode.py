"""Decoding of the network's signal, against the reference vectors and on degenerate input."""

from __future__ import annotations

import numpy as np
import pytest

from zerograsp_edge.runtime.errors import DecodeError
from zerograsp_edge.runtime.grasp.decode import OctreeCube, decode, node_coordinates


def morton(nodes: np.ndarray, index: int = 0) -> np.ndarray:
    keys = np.full(len(nodes), index << 48, np.int64)
    for bit in range(16):
        for axis, shift in ((0, 2), (1, 1), (2, 0)):
            keys |= ((nodes[:, axis].astype(np.int64) >> bit) & 1) << (3 * bit + shift)
    return keys


def test_matches_the_reference(golden: dict[str, np.ndarray]) -> None:
    object_ids = golden["obj_ids"].tolist()
    objects = decode(
        golden["signal"], golden["signal/keys"], OctreeCube(float(golden["z_min"][0])), object_ids
    )
    assert [item.object_id for item in objects] == object_ids
    for item in objects:
        reference = {
            name: golden[f"demo/obj{item.index}_{name}"] for name in ("n", "grasps", "pcd", "normals")
        }
        assert len(item.points) == reference["n"]
        kept = len(
            reference["pcd"]
        )  # the reference vectors hold the first 5000 nodes of an object, in key order
        assert kept == min(len(item.points), 5000)
        np.testing.assert_allclose(item.points[:kept], reference["pcd"], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(item.normals[:kept], reference["normals"], rtol=1e-5, atol=1e-6)
        rows = item.grasps.to_graspnet()[:kept]
        others = np.r_[0:4, 13:16]
        np.testing.assert_allclose(rows[:, others], reference["grasps"][:, others], rtol=1e-5, atol=1e-7)
        # Gram-Schmidt magnifies float32 rounding by 1 / sin of the angle between approach and tangent.
        signal = golden["signal"][node_coordinates(golden["signal/keys"])[1] == item.index][:kept]
        crossed = np.linalg.norm(np.cross(signal[:, 6:9], signal[:, 9:12]), axis=1)
        sine = crossed / np.linalg.norm(signal[:, 6:9], axis=1) / np.linalg.norm(signal[:, 9:12], axis=1)
        error = np.abs(rows[:, 4:13] - reference["grasps"][:, 4:13]).max(axis=1)
        assert (error * sine).max() < 6e-7  # five float32 roundings
        assert (rows[:, 16] == item.object_id).all()
        assert (reference["grasps"][:, 16] == -1).all()  # the reference leaves the id unset


def test_node_coordinates_inverts_morton_keys() -> None:
    nodes = np.random.default_rng(0).integers(0, 1 << 16, (500, 3))
    coordinates, index = node_coordinates(morton(nodes, 37))
    np.testing.assert_array_equal(coordinates, nodes)
    assert (index == 37).all()


def test_x_has_the_highest_bit() -> None:
    coordinates, _ = node_coordinates(np.array([4, 2, 1]))
    np.testing.assert_array_equal(coordinates, np.eye(3))


def test_node_centres_fill_the_cube() -> None:
    cube = OctreeCube(z_min=-80.0)
    ends = cube.node_centres(np.array([[0, 0, 0], [511, 511, 511]]), 9)
    np.testing.assert_allclose(ends, [[-638.75, -638.75, -78.75], [638.75, 638.75, 1198.75]])
    coarse = OctreeCube(z_min=0.0, grid_size=40.0, min_lod=3, max_lod=6)
    assert (coarse.edge, coarse.voxel_size) == (320.0, 5.0)
    np.testing.assert_allclose(coarse.node_centres(np.array([[0, 32, 63]]), 6), [[-157.5, 2.5, 317.5]])


def signal_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    keys = np.sort(rng.choice(1 << 27, count, replace=False)).astype(np.int64)
    return rng.normal(size=(count, 14)).astype(np.float32), keys


def test_rotations_are_right_handed_also_where_the_prediction_is_degenerate() -> None:
    signal, keys = signal_rows(60)
    signal[:10, 6:9] = signal[:10, 9:12] * 3  # closing parallel to approach
    signal[10:20, 6:9] = 0
    signal[20:30, 9:12] = 0
    (item,) = decode(signal, keys, OctreeCube(0.0), [1])
    rotation = item.grasps.rotation
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (60, 3, 3)), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-5)
    approach = -signal[30:, 9:12] / np.linalg.norm(signal[30:, 9:12], axis=1, keepdims=True)
    np.testing.assert_allclose(rotation[30:, :, 0], approach, atol=1e-6)


def test_width_and_depth_are_clipped() -> None:
    signal, keys = signal_rows(3)
    signal[:, 13], signal[:, 12] = [-1, 0.5, 2], [-1, 0.5, 2]
    (item,) = decode(signal, keys, OctreeCube(0.0), [1])
    np.testing.assert_allclose(item.grasps.width, [0, 0.05, 0.1])
    np.testing.assert_allclose(item.grasps.depth, [0, 0.02, 0.04])


def test_object_without_nodes_has_no_points() -> None:
    signal, keys = signal_rows(5)
    objects = decode(signal, keys | (1 << 48), OctreeCube(0.0), [3, 8, 9])
    assert [len(item.points) for item in objects] == [0, 5, 0]
    assert [item.object_id for item in objects] == [3, 8, 9]
    assert (objects[1].grasps.object_id == 8).all()


def test_nothing_occupied() -> None:
    (item,) = decode(np.empty((0, 14), np.float32), np.empty(0, np.int64), OctreeCube(0.0), [1])
    assert len(item.points) == len(item.grasps) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, k: (s[:, :13], k), "expected signal"),
        (lambda s, k: (s, k[:-1]), "expected signal"),
        (lambda s, k: (np.where(s == s[2, 5], np.nan, s), k), "not finite at 1 of 9 nodes"),
        (lambda s, k: (s, k[::-1]), "ascending"),
        (lambda s, k: (s, k | (1 << 48)), "object 1, the frame has 1"),
    ],
)
def test_bad_input_is_named(spoil, message: str) -> None:
    signal, keys = spoil(*signal_rows(9))
    with pytest.raises(DecodeError, match=message):
        decode(signal, keys, OctreeCube(0.0), [1])
