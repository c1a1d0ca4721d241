"""What can be had without a network: three reconstructions of an object from the same noisy frame.

Visible points alone, their convex hull, and their mirror image about the object's vertical plane (Bohg et al., "Mind
the gap: robotic grasping under incomplete observation", ICRA 2011, reduced to the plane across the viewing direction).
They get the depth and the mask the network gets, and the direction of gravity, which it does not get. The constants
are where the references score best on held-out scenes. All surfaces are in the camera's optical frame, mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.export.training.metrics import Surface
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM

# Neighbours a point's plane is fitted to: enough to average out stereo noise of a few mm, at pixels about 1 mm apart.
NORMAL_NEIGHBOURS = 40
OUTLIER_NEIGHBOURS = 12
# A point is an outlier when its neighbours are farther away than the mean by this many standard deviations.
OUTLIER_DEVIATIONS = 3.0
# Points that a jump in depth separates from the rest belong to the object only in some number: a leaking mask collects
# small patches of what lies behind.
CLUSTER_GAP_MM = 15.0
CLUSTER_SHARE = 0.3
HULL_SPACING_MM = 1.5
# Before a measured surface by more than this, a point would have been seen: that much a stereo camera errs.
FREE_SPACE_MARGIN_MM = 8.0
# Share of mirrored points in free space that noise explains; above it the plane lies too far back.
MAX_IN_FREE_SPACE = 0.1


@dataclass(frozen=True, eq=False)
class Observation:
    """One camera's measurement of a scene, as in `sample.View`.

    Attributes:
        depth: (H, W) float32 mm, 0 is invalid.
        mask: (H, W) integer instance ids.
        intrinsics: (3, 3) pixels.
        camera_pose: (4, 4) world <- camera, world z up.
    """

    depth: np.ndarray
    mask: np.ndarray
    intrinsics: np.ndarray
    camera_pose: np.ndarray

    @property
    def up(self) -> np.ndarray:
        """(3,) the world's z axis in the camera frame."""
        return self.camera_pose[2, :3]


def visible_points(seen: Observation, object_id: int) -> Surface:
    """The object's measured points without outliers, normals from local planes, turned to the camera.

    Empty when fewer than four points remain, too few for a plane with neighbours.
    """
    v, u = np.nonzero((seen.mask == object_id) & (seen.depth > MIN_DEPTH_MM))
    z = seen.depth[v, u].astype(np.float64)
    k = seen.intrinsics.astype(np.float64)
    points = np.stack([(u - k[0, 2]) * z / k[0, 0], (v - k[1, 2]) * z / k[1, 1], z], axis=1)
    points = points[_is_inlier(points)]
    if len(points) < 4:
        return Surface(np.empty((0, 3)), np.empty((0, 3)))
    normals = _local_planes(points)
    away = np.einsum("ni,ni->n", normals, points) > 0
    normals[away] *= -1
    return Surface(points, normals)


def convex_hull(visible: Surface) -> Surface:
    """Even samples of the hull of the visible points with its faces' normals; empty for fewer than four points."""
    if len(visible) < 4:
        return Surface(np.empty((0, 3)), np.empty((0, 3)))
    spatial = require("scipy.spatial", "sim", "compute a convex hull")
    # QJ: points of one plane, such as a thin plate seen from above, still have a hull.
    hull = spatial.ConvexHull(visible.points, qhull_options="QJ")
    corners = visible.points[hull.simplices]
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(edge_a, edge_b), axis=1) / 2
    count = max(int(area.sum() / HULL_SPACING_MM**2), 100)
    # Evenly spaced along the faces laid end to end, and the R2 sequence within a face: no clumps, no seed.
    face = np.searchsorted(np.cumsum(area), (np.arange(count) + 0.5) / count * area.sum())
    face = np.minimum(face, len(area) - 1)
    a, b = (np.arange(count)[:, None] * (0.7548776662466927, 0.5698402909980532) % 1).T
    folded = a + b > 1
    a, b = np.where(folded, 1 - a, a), np.where(folded, 1 - b, b)
    points = corners[face, 0] + a[:, None] * edge_a[face] + b[:, None] * edge_b[face]
    return Surface(points, hull.equations[face, :3])


def mirror_completion(visible: Surface, seen: Observation) -> Surface:
    """The visible points and their mirror image about a vertical plane across the horizontal viewing direction.

    Where the plane stands decides how deep the object becomes. It is at least as deep as what is seen of it, and at
    most as wide as it appears from the camera (an unseen back is assumed to be no farther than the object is wide).
    Between the two the deepest is taken whose mirrored points are hidden: one that lies in front of a measured
    surface would have been seen. Such points are removed from the result.
    """
    if len(visible) == 0:
        return visible
    assert visible.normals is not None
    axis = _horizontal_view(visible.points, seen)
    along = visible.points @ axis
    # Percentiles: the ends of noisy points are noise.
    near, far = np.percentile(along, (1, 99))
    across = np.percentile(visible.points @ np.cross(seen.up, axis), (1, 99))
    deepest = max(float(np.ptp(across)), far - near)
    probe = visible.subset(1500, np.random.default_rng(0))
    for depth in np.linspace(deepest, far - near, 12):
        mirrored = _mirrored(probe, axis, near + depth / 2)
        if _in_free_space(mirrored.points, seen).mean() <= MAX_IN_FREE_SPACE:
            break
    mirrored = _mirrored(visible, axis, near + depth / 2)
    assert mirrored.normals is not None
    hidden = ~_in_free_space(mirrored.points, seen)
    return Surface(
        np.concatenate([visible.points, mirrored.points[hidden]]),
        np.concatenate([visible.normals, mirrored.normals[hidden]]),
    )


def _horizontal_view(points: np.ndarray, seen: Observation) -> np.ndarray:
    """(3,) unit, camera frame: the direction from the camera to the object without its vertical part."""
    # Seen from straight above there is none: then where the top of the picture lies.
    for direction in (points.mean(axis=0), np.array([0.0, -1.0, 0.0])):
        horizontal = direction - seen.up * (direction @ seen.up)
        if np.linalg.norm(horizontal) > 0.05 * np.linalg.norm(direction):
            break
    return horizontal / np.linalg.norm(horizontal)


def _mirrored(surface: Surface, axis: np.ndarray, offset: float) -> Surface:
    """The surface mirrored about the plane `axis` . x = offset."""
    assert surface.normals is not None
    distance = surface.points @ axis - offset
    return Surface(
        surface.points - 2 * distance[:, None] * axis,
        surface.normals - 2 * (surface.normals @ axis)[:, None] * axis,
    )


def _in_free_space(points: np.ndarray, seen: Observation) -> np.ndarray:
    """(n,) bool: the camera measured something behind the point. False outside of the picture and where it measured
    nothing."""
    height, width = seen.depth.shape
    z = points[:, 2]
    in_front = z > MIN_DEPTH_MM
    pixels = points[:, :2] / np.where(in_front, z, 1)[:, None] * seen.intrinsics[[0, 1], [0, 1]]
    u, v = np.rint(pixels + seen.intrinsics[:2, 2]).astype(np.int64).T
    inside = in_front & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    measured = np.zeros(len(points))
    measured[inside] = seen.depth[v[inside], u[inside]]
    return (measured > MIN_DEPTH_MM) & (measured > z + FREE_SPACE_MARGIN_MM)


def _is_inlier(points: np.ndarray) -> np.ndarray:
    """(n,) bool: among near neighbours, and in a cluster of some size."""
    inlier = np.ones(len(points), bool)
    if len(points) <= OUTLIER_NEIGHBOURS:
        return inlier
    spatial = require("scipy.spatial", "sim", "remove outliers")
    distance, _ = spatial.cKDTree(points).query(points, OUTLIER_NEIGHBOURS + 1)
    mean = distance[:, 1:].mean(axis=1)
    inlier = mean <= mean.mean() + OUTLIER_DEVIATIONS * mean.std()
    label = _clusters(points[inlier], CLUSTER_GAP_MM)
    size = np.bincount(label)
    kept = size >= CLUSTER_SHARE * len(label)
    kept[size.argmax()] = True
    inlier[inlier] = kept[label]
    return inlier


def _clusters(points: np.ndarray, gap: float) -> np.ndarray:
    """(n,) cluster of each point: voxels of edge `gap` that touch, also at corners, are one cluster."""
    ndimage = require("scipy.ndimage", "sim", "cluster points")
    voxel = np.floor((points - points.min(axis=0)) / gap).astype(np.int64)
    grid = np.zeros(voxel.max(axis=0) + 1, bool)
    grid[tuple(voxel.T)] = True
    labels, _ = ndimage.label(grid, np.ones((3, 3, 3)))
    return labels[tuple(voxel.T)] - 1


def _local_planes(points: np.ndarray) -> np.ndarray:
    """(n, 3) unit normals of the planes fitted to each point's nearest neighbours, of either sign."""
    spatial = require("scipy.spatial", "sim", "estimate normals")
    count = min(NORMAL_NEIGHBOURS, len(points))
    _, rows = spatial.cKDTree(points).query(points, count)
    # Sums of products over the neighbourhoods; centred first so that nothing cancels.
    centred = (points - points.mean(axis=0)).astype(np.float32)
    neighbours = centred[rows]
    neighbours -= neighbours.mean(axis=1, keepdims=True)
    covariance = np.einsum("nki,nkj->nij", neighbours, neighbours, optimize=True)
    _, vectors = np.linalg.eigh(covariance.astype(np.float64))
    return np.ascontiguousarray(vectors[:, :, 0])
