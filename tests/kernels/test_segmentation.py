"""Parts of the geometric segmentation: native kernels against twins, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge import kernels
from zerograsp_edge.kernels.reference import segmentation as reference
from zerograsp_edge.kernels.workspace import Workspace

NEAR, FAR = 10.0, 3000.0
WORKSPACE = Workspace()  # of all tests: what a frame leaves behind must not show in the next


@st.composite
def depths(draw: st.DrawFn) -> np.ndarray:
    """Small pictures: two tilted planes, noise, holes, values out of range, NaN and infinity."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(4, 45)), draw(st.integers(4, 45))
    v, u = np.mgrid[:height, :width]
    a, b = rng.normal(0, draw(st.sampled_from([0, 2e-3, 2e-2])), (2, 2))
    inverse = np.where(u > width * rng.random(), 1.2 + a[0] * u + a[1] * v, 1.5 + b[0] * u + b[1] * v)
    inverse = inverse + draw(st.sampled_from([0, 1e-3, 3e-2])) * rng.standard_normal(inverse.shape)
    depth = (1000 / np.maximum(inverse, 0.1)).astype(np.float32)
    bad = rng.random(depth.shape)
    for value, share in [(0.0, 0.1), (np.nan, 0.12), (np.inf, 0.14), (5.0, 0.15), (9000.0, 0.16), (-1.0, 0.17)]:
        depth[bad < share * draw(st.sampled_from([0, 1]))] = value
    return depth


def colours(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (shape[0] // 6 + 1, shape[1] // 6 + 1, 3))
    return np.repeat(np.repeat(coarse, 6, 0), 6, 1)[: shape[0], : shape[1]].astype(np.uint8)


def same_graph(got: kernels.PieceGraph, expected: kernels.PieceGraph) -> None:
    for name in ("pieces", "statistics", "edges", "edge_statistics"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@settings(max_examples=80, deadline=None)
@given(depths(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([0.0, 0.03]), st.sampled_from([1, 3]))
def test_reduced_depth_equals_twin(depth: np.ndarray, stride: int, tolerance: float, threads: int) -> None:
    got = kernels.reduce_depth(depth, stride, NEAR, FAR, tolerance, threads=threads)
    np.testing.assert_array_equal(got, reference.reduce_depth(depth, stride, NEAR, FAR, tolerance))


def test_reduced_depth_does_not_mix_near_and_far() -> None:
    depth = np.tile(np.array([500.0, 1000.0, 1000.0, 1000.0], np.float32), (4, 1))
    got = kernels.reduce_depth(depth, 4, NEAR, FAR)
    np.testing.assert_array_equal(got, [[1.0]])


@settings(max_examples=60, deadline=None)
@given(depths(), st.sampled_from([4, 5, 8]), st.integers(1, 4), st.sampled_from([1e-3, 3e-2]), st.sampled_from([1, 3]))
def test_superpixels_and_graph_equal_twins(
    depth: np.ndarray, cell: int, iterations: int, noise: float, threads: int
) -> None:
    inverse = kernels.reduce_depth(depth, 1, NEAR, FAR)
    colour = colours(depth.shape, depth.size)
    labels, statistics = kernels.planar_superpixels(
        inverse, colour, cell, iterations, noise, workspace=WORKSPACE, threads=threads
    )
    expected = reference.planar_superpixels(inverse, colour, cell, iterations, noise)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(statistics, expected[1])
    got = kernels.superpixel_graph(inverse, colour, labels, statistics, workspace=WORKSPACE)
    same_graph(got, reference.superpixel_graph(inverse, colour, labels, statistics))


def test_superpixels_follow_a_crease() -> None:
    """Two planes that meet in a valley: no superpixel reaches far to the other side, though no depth steps there."""
    u = np.arange(64) + np.zeros((48, 1))
    inverse = (1.4 + 0.004 * np.abs(u - 29.5)).astype(np.float32)
    colour = np.full((48, 64, 3), 128, np.uint8)
    labels, statistics = kernels.planar_superpixels(inverse, colour, 8, 4, 1e-3)
    left = np.bincount(labels[u < 29.5], minlength=len(statistics))
    right = np.bincount(labels[u > 29.5], minlength=len(statistics))
    assert np.minimum(left, right).sum() < 0.02 * labels.size
    wide = statistics[:, 0] > 20
    assert np.median(np.abs(np.abs(statistics[wide, 4]) - 0.004)) < 1e-4


def test_links_reach_across_holes_but_not_farther() -> None:
    labels = np.full((1, 12), -1, np.int32)
    labels[0, [0, 4, 9]] = [0, 1, 2]
    inverse = np.where(labels >= 0, np.float32(1.5), np.float32(0))
    statistics = np.zeros((3, 10))
    graph = kernels.superpixel_graph(inverse, np.zeros((1, 12, 3), np.uint8), labels, statistics, reach=4)
    assert graph.edges.tolist() == [[0, 1]]
    assert graph.edge_statistics[0, 6] == 3  # unmeasured pixels in between


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([-1.0, 0.0, 0.5]), st.booleans())
def test_contraction_equals_twin(seed: int, nodes: int, mean: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, nodes, (3 * nodes, 2)), axis=1)
    edges = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0).astype(np.int32).reshape(-1, 2)
    weights = rng.normal(mean, 1, len(edges))
    weights = np.round(weights) if ties else weights
    got = kernels.contract_graph(nodes, edges, weights, workspace=WORKSPACE)
    np.testing.assert_array_equal(got, reference.contract_graph(nodes, edges, weights))


def test_repulsion_outweighs_a_leak() -> None:
    """Two chains that attract within and touch at three places: one weak bond does not join what two
    repulsions part."""
    edges = np.array([[0, 1], [1, 2], [3, 4], [4, 5], [0, 3], [1, 4], [2, 5]], np.int32)
    weights = np.array([3.0, 3, 3, 3, 1, -1, -1])
    assert kernels.contract_graph(6, edges, weights).tolist() == [0, 0, 0, 1, 1, 1]
    weights[5:] = -0.4
    assert kernels.contract_graph(6, edges, weights).tolist() == [0] * 6


@settings(max_examples=60, deadline=None)
@given(depths(), st.sampled_from([1, 2, 3]), st.sampled_from([0, 4]), st.sampled_from([1, 3]), st.integers(0, 99))
def test_expanded_labels_equal_twin(depth: np.ndarray, stride: int, fill: int, threads: int, seed: int) -> None:
    inverse = kernels.reduce_depth(depth, stride, NEAR, FAR)
    coarse = colours(inverse.shape, seed)[:, :, 0] % 4
    labels = np.where(inverse > 0, coarse, -1).astype(np.int32)
    arguments = (depth, stride, inverse, labels, NEAR, FAR)
    got = kernels.expand_labels(*arguments, fill=fill, threads=threads, workspace=WORKSPACE)
    np.testing.assert_array_equal(got, reference.expand_labels(*arguments, fill=fill))


def test_a_shadow_belongs_to_what_lies_behind() -> None:
    depth = np.array([[500.0, 500, 0, 0, 800, 800]], np.float32)
    inverse = kernels.reduce_depth(depth, 1, NEAR, FAR)
    labels = np.array([[7, 7, -1, -1, 2, 2]], np.int32)
    assert kernels.expand_labels(depth, 1, inverse, labels, NEAR, FAR, fill=2).tolist() == [[7, 7, 2, 2, 2, 2]]
    assert kernels.expand_labels(depth, 1, inverse, labels, NEAR, FAR, fill=1).tolist() == [[7, 7, -1, -1, 2, 2]]


def test_errors_name_the_argument() -> None:
    depth = np.full((8, 8), 700, np.float32)
    inverse, colour = np.ones((8, 8), np.float32), np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="stride: expected 1 to 8, got 9"):
        kernels.reduce_depth(depth, 9, NEAR, FAR)
    with pytest.raises(ValueError, match="min_depth, max_depth: expected 0 < min < max"):
        kernels.reduce_depth(depth, 2, FAR, NEAR)
    with pytest.raises(ValueError, match="colour: expected a C-contiguous uint8 array"):
        kernels.planar_superpixels(inverse, inverse, 8, 1, 1e-3)
    with pytest.raises(ValueError, match="noise: expected a positive"):
        kernels.planar_superpixels(inverse, colour, 8, 1, 0.0)
    labels = np.full((8, 8), 3, np.int32)
    with pytest.raises(ValueError, match="labels: expected -1 to 1, got 3 to 3"):
        kernels.superpixel_graph(inverse, colour, labels, np.zeros((2, 10)))
    with pytest.raises(ValueError, match="edges: expected nodes 0 to 1, got 0 to 2"):
        kernels.contract_graph(2, np.array([[0, 2]], np.int32), np.ones(1))
    with pytest.raises(ValueError, match="weights: expected finite"):
        kernels.contract_graph(2, np.array([[0, 1]], np.int32), np.array([np.nan]))
    with pytest.raises(ValueError, match="depth: expected at least 8 x 8"):
        kernels.expand_labels(np.ones((4, 9), np.float32), 8, inverse, labels, NEAR, FAR)
