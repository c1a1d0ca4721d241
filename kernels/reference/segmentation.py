"""Parts of the geometric segmentation: reduced depth, planar superpixels, their graph, its contraction, labels."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.segmentation import PieceGraph

Image = NDArray[np.float32]
Statistics = NDArray[np.float64]

RIDGE = 0.1  # pixels^2, added to the spread of positions: a line of pixels has no slope across itself
FEWEST_OF_CLUSTER = 3


def reduce_depth(
    depth: NDArray[np.float32],
    stride: int,
    min_depth: float,
    max_depth: float,
    tolerance: float,
) -> NDArray[np.float32]:
    """Twin of `kernels.reduce_depth`."""
    height, width = depth.shape[0] // stride, depth.shape[1] // stride
    cut = depth[: height * stride, : width * stride].reshape(height, stride, width, stride)
    blocks = cut.transpose(0, 2, 1, 3).reshape(height, width, stride * stride)
    with np.errstate(invalid="ignore"):
        valid = (blocks > np.float32(min_depth)) & (blocks < np.float32(max_depth))
    inverse = np.where(valid, np.float32(1000) / np.where(valid, blocks, np.float32(1)), np.float32(0))
    count = valid.sum(axis=2)
    ordered = -np.sort(-inverse, axis=2)  # nearest first, invalid last
    middle = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], axis=2)
    with np.errstate(invalid="ignore"):
        near = (inverse > 0) & (np.abs(inverse - middle) <= np.float32(tolerance) * middle)
    total = np.zeros((height, width), np.float32)
    for i in range(stride * stride):
        total = total + np.where(near[:, :, i], inverse[:, :, i], np.float32(0))
    kept = near.sum(axis=2).astype(np.float32)
    enough = 2 * count >= stride * stride
    return np.where(enough & (kept > 0), total / np.maximum(kept, np.float32(1)), np.float32(0))


def plane_statistics(
    labels: NDArray[np.int32], inverse_depth: Image, colour: NDArray[np.uint8], count: int
) -> Statistics:
    """(count, 10) per label, see `kernels.planar_superpixels`: least squares planes of the inverse depth."""
    v, u = np.nonzero(labels >= 0)
    of, w, rgb = labels[v, u], inverse_depth[v, u].astype(float), colour[v, u].astype(float)
    x, y = u.astype(float), v.astype(float)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(of, values, count).astype(float)

    pixels = total(np.ones(len(x)))
    n = np.maximum(pixels, 1)
    mu, mv, mw = total(x) / n, total(y) / n, total(w) / n
    uu = total(x * x) / n - mu * mu + RIDGE
    uv = total(x * y) / n - mu * mv
    vv = total(y * y) / n - mv * mv + RIDGE
    uw, vw, ww = total(x * w) / n - mu * mw, total(y * w) / n - mv * mw, total(w * w) / n - mw * mw
    determinant = uu * vv - uv * uv
    a, b = (uw * vv - vw * uv) / determinant, (vw * uu - uw * uv) / determinant
    residual = np.sqrt(np.maximum(ww - a * uw - b * vw, 0))
    return np.stack([pixels, mu, mv, mw, a, b, residual, *(total(c) / n for c in rgb.T)], axis=1)


def planar_superpixels(
    inverse_depth: Image,
    colour: NDArray[np.uint8],
    cell: int,
    iterations: int,
    noise: float,
    spatial_weight: float = 4.0,
    colour_weight: float = 0.02,
) -> tuple[NDArray[np.int32], Statistics]:
    """Twin of `kernels.planar_superpixels`."""
    f = np.float32
    height, width = inverse_depth.shape
    rows, columns = -(-height // cell), -(-width // cell)
    v, u = np.mgrid[:height, :width]
    home_row, home_column = v // cell, u // cell
    labels = np.where(inverse_depth > 0, home_row * columns + home_column, -1).astype(np.int32)
    steepness, spatial = f(1) / f(noise), f(spatial_weight) / f(cell * cell)
    for _ in range(iterations):
        statistics = plane_statistics(labels, inverse_depth, colour, rows * columns)
        cluster = statistics.astype(f)
        best = np.full(labels.shape, np.inf, f)
        chosen = np.full(labels.shape, -1, np.int32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                row, column = home_row + dy, home_column + dx
                exists = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                k = np.where(exists, row * columns + column, 0)
                exists &= statistics[k, 0] >= FEWEST_OF_CLUSTER
                cu, cv, cw, a, b = (cluster[k, i] for i in range(1, 6))
                du, dv = u.astype(f) - cu, v.astype(f) - cv
                miss = (inverse_depth - ((cw + b * dv) + a * du)) * steepness
                dr, dg, db = (colour[:, :, i].astype(f) - cluster[k, 7 + i] for i in range(3))
                distance = miss * miss + spatial * (du * du + dv * dv)
                distance = distance + f(colour_weight) * ((dr * dr + dg * dg) + db * db)
                nearer = exists & (distance < best)
                best[nearer], chosen[nearer] = distance[nearer], k[nearer]
        labels = np.where((labels >= 0) & (chosen >= 0), chosen, labels).astype(np.int32)
    return labels, plane_statistics(labels, inverse_depth, colour, rows * columns)


def superpixel_graph(
    inverse_depth: Image,
    colour: NDArray[np.uint8],
    labels: NDArray[np.int32],
    statistics: Statistics,
    fewest: int = 12,
    reach: int = 4,
) -> PieceGraph:
    """Twin of `kernels.superpixel_graph`."""
    height, width = labels.shape
    pieces = np.full(labels.shape, -1, np.int32)
    label_of: list[int] = []
    for v, u in np.argwhere(labels >= 0):
        if pieces[v, u] >= 0:
            continue
        label_of.append(int(labels[v, u]))
        waiting = [(int(v), int(u))]
        pieces[v, u] = len(label_of) - 1
        while waiting:
            y, x = waiting.pop()
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= ny < height and 0 <= nx < width
                if inside and pieces[ny, nx] < 0 and labels[ny, nx] == label_of[-1]:
                    pieces[ny, nx] = len(label_of) - 1
                    waiting.append((ny, nx))
    own = plane_statistics(pieces, inverse_depth, colour, len(label_of))
    small = own[:, 0] < fewest
    own[small, 4:6] = statistics[np.array(label_of, int)[small], 4:6]

    def plane(k: int, x: float, y: float) -> float:
        return own[k, 3] + own[k, 4] * (x - own[k, 1]) + own[k, 5] * (y - own[k, 2])

    sums: dict[tuple[int, int], NDArray[np.float64]] = {}
    for v in range(height):
        for u in range(width):
            if pieces[v, u] < 0:
                continue
            left = [(v, u - k) for k in range(1, min(reach, u) + 1)]
            above = [(v - k, u) for k in range(1, min(reach, v) + 1)]
            for way in (left, above):
                last = next((place for place in way if pieces[place] >= 0), None)
                if last is None or pieces[last] == pieces[v, u]:
                    continue
                a, b = sorted((int(pieces[v, u]), int(pieces[last])))
                row, column = 0.5 * (v + last[0]), 0.5 * (u + last[1])
                step = plane(a, column, row) - plane(b, column, row)
                measured = abs(float(inverse_depth[v, u]) - float(inverse_depth[last]))
                gap = (u - last[1]) + (v - last[0]) - 1
                link = np.array([1.0, step, abs(step), measured, column, row, gap])
                sums[a, b] = sums.get((a, b), np.zeros(7)) + link
    edges = sorted(sums)
    means = np.array([sums[e] for e in edges]).reshape(-1, 7)
    means[:, 1:] /= means[:, :1]
    return PieceGraph(pieces, own, np.array(edges, np.int32).reshape(-1, 2), means)


def contract_graph(nodes: int, edges: NDArray[np.int32], weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Twin of `kernels.contract_graph`."""
    root = list(range(nodes))
    neighbours: list[dict[int, float]] = [{} for _ in range(nodes)]
    for (a, b), weight in zip(edges.tolist(), weights.tolist(), strict=True):
        neighbours[a][b] = neighbours[b][a] = weight
    heap = [(-w, i, j) for i in range(nodes) for j, w in neighbours[i].items() if i < j and w > 0]
    heapq.heapify(heap)
    while heap:
        weight, a, b = heapq.heappop(heap)
        if root[a] != a or root[b] != b or neighbours[a].get(b) != -weight:
            continue  # an end, or its weight, is no longer what it was
        root[b] = a
        del neighbours[a][b]
        for k, more in neighbours[b].items():
            if k == a:
                continue
            del neighbours[k][b]
            total = neighbours[a].get(k, 0.0) + more
            neighbours[a][k] = neighbours[k][a] = total
            if total > 0:
                heapq.heappush(heap, (-total, min(a, k), max(a, k)))
        neighbours[b] = {}
    number: dict[int, int] = {}
    for i in range(nodes):
        while root[root[i]] != root[i]:
            root[i] = root[root[i]]
        number.setdefault(root[i], len(number))
    return np.array([number[root[i]] for i in range(nodes)], np.int32)


def expand_labels(
    depth: Image,
    stride: int,
    inverse_depth: Image,
    labels: NDArray[np.int32],
    min_depth: float,
    max_depth: float,
    fill: int = 0,
) -> NDArray[np.int32]:
    """Twin of `kernels.expand_labels`."""
    height, width = depth.shape
    rows, columns = labels.shape
    out = np.full(depth.shape, -1, np.int32)
    for v in range(height):
        left = -1
        for u in range(width):
            if not np.float32(min_depth) < depth[v, u] < np.float32(max_depth):
                continue
            y, x = min(v // stride, rows - 1), min(u // stride, columns - 1)
            inverse = np.float32(1000) / depth[v, u]
            around = [(j, i) for j in (y - 1, y, y + 1) for i in (x - 1, x, x + 1)]
            nearest = np.float32(np.inf)
            for j, i in [(y, x), *around]:
                if 0 <= j < rows and 0 <= i < columns and labels[j, i] >= 0:
                    off = np.abs(inverse_depth[j, i] - inverse)
                    if off < nearest:
                        nearest, out[v, u] = off, labels[j, i]
            if out[v, u] < 0:
                continue
            if left >= 0 and 0 < u - left - 1 <= fill:
                out[v, left + 1 : u] = out[v, u] if depth[v, u] > depth[v, left] else out[v, left]
            left = u
    return out
