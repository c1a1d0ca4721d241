"""A picture of scenes as a training set shows them: what the camera measures, and the truth that is to be learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zerograsp_edge.export.training.sample import GRASPNESS, SceneSample, View

_TILE = (320, 240)
_HEADER = 18
_POINT_BUDGET = 60000


def contact_sheet(scenes: Sequence[SceneSample], views_per_scene: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB; one row a view: colour, depth, mask, true normals, graspness, overlaid on dimmed colour.

    Truth is drawn where it is, hidden or not: the parts to be completed show through what is before them.
    """
    rows = [
        np.hstack(_tiles(scene, view)) for scene in scenes for view in scene.views[: max(1, views_per_scene)]
    ]
    return np.vstack(rows)


def _tiles(scene: SceneSample, view: View) -> list[np.ndarray]:
    import cv2

    points, normals, graspness = _camera_truth(scene, view)
    dim = (view.rgb * 0.35).astype(np.uint8)
    fractions = " ".join(f"{f:.2f}" for f in view.visible_fraction)
    best = graspness.max() if len(graspness) else 0.0
    valid = view.depth[view.depth > 0]
    span = f"{valid.min():.0f}..{valid.max():.0f} mm" if len(valid) else "no depth"
    tiles = {
        f"{scene.seed} {scene.support_kind}": view.rgb,
        f"depth {span}, {100 * (view.depth == 0).mean():.0f} % holes": _depth_colours(view.depth),
        f"visible {fractions}": _mask_colours(view),
        "normals": _splat(dim, points, np.rint(127.5 * (normals + 1)).astype(np.uint8), view.intrinsics),
        f"graspness, best {best:.2f}": _splat(dim, points, _heat(graspness), view.intrinsics),
    }
    return [
        _titled(cv2.resize(tile, _TILE, interpolation=cv2.INTER_AREA), text) for text, tile in tiles.items()
    ]


def _camera_truth(scene: SceneSample, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All objects' surface points (mm) and normals in the camera's frame, and their graspness; evenly thinned."""
    rotation, eye = view.camera_pose[:3, :3], view.camera_pose[:3, 3]
    points, normals = [], []
    for item in scene.objects:
        turn = rotation.T @ item.pose[:3, :3]
        points.append(item.points @ turn.T + (item.pose[:3, 3] - eye) @ rotation)
        normals.append(item.normals @ turn.T)
    graspness = np.concatenate([item.grasps[:, GRASPNESS] for item in scene.objects])
    keep = slice(None, None, max(1, len(graspness) // _POINT_BUDGET))
    return np.concatenate(points)[keep], np.concatenate(normals)[keep], graspness[keep]


def _splat(
    ground: np.ndarray, points: np.ndarray, colours: np.ndarray, intrinsics: np.ndarray, size_mm: float = 2.4
) -> np.ndarray:
    """Points as squares of size_mm, at least 2 pixels, the nearest on top."""
    picture = ground.copy()
    height, width = picture.shape[:2]
    order = np.argsort(-points[:, 2], kind="stable")
    order = order[points[order, 2] > 1]
    points, colours = points[order], colours[order]
    u, v = np.rint((points @ intrinsics.T.astype(np.float64))[:, :2].T / points[:, 2]).astype(np.int64)
    size = np.maximum(np.ceil(size_mm * intrinsics[0, 0] / points[:, 2]), 2).astype(np.int64)
    nearest = np.full(picture.shape[:2], np.inf)
    for dv in range(size.max(initial=0)):
        for du in range(size.max(initial=0)):
            x, y = u + du - size // 2, v + dv - size // 2
            drawn = (du < size) & (dv < size) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            x, y, z = x[drawn], y[drawn], points[drawn, 2]
            ahead = z < nearest[y, x]  # of duplicates the last one, the nearest, is written
            nearest[y[ahead], x[ahead]] = z[ahead]
            picture[y[ahead], x[ahead]] = colours[drawn][ahead]
    return picture


def _depth_colours(depth: np.ndarray) -> np.ndarray:
    import cv2

    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[valid], [1, 95])
    grey = np.clip((depth - near) / max(far - near, 1) * 255, 0, 255).astype(np.uint8)
    colours = cv2.applyColorMap(255 - grey, cv2.COLORMAP_TURBO)[..., ::-1].copy()
    colours[~valid] = 0
    return colours


def _mask_colours(view: View) -> np.ndarray:
    """Ids as colours, the golden ratio apart in hue."""
    import cv2

    ids = np.arange(256)
    hsv = np.stack([(ids * 0.618 % 1) * 179, np.full(256, 200), np.full(256, 240)], axis=1).astype(np.uint8)
    palette = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    palette[0] = 0
    return (palette[view.mask] * 0.75 + view.rgb * 0.25).astype(np.uint8)


def _heat(values: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 from blue (0) over green to red (1)."""
    import cv2

    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(grey[None], cv2.COLORMAP_TURBO)[0][:, ::-1]


def _titled(tile: np.ndarray, text: str) -> np.ndarray:
    import cv2

    header = np.zeros((_HEADER, tile.shape[1], 3), np.uint8)
    cv2.putText(header, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return np.vstack([header, tile])
