"""What real cameras and segmenters do to a picture: noise of an active stereo depth camera, errors of masks.

Strengths are drawn per view, from none to bad, by `SensorNoise.draw` and `MaskNoise.draw`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Objects with fewer valid depth pixels are not worth a mask.
FEWEST_PIXELS = 30


@dataclass(frozen=True)
class SensorNoise:
    """Strength of each error of a stereo depth camera.

    Attributes:
        disparity: standard deviation of the smooth disparity error, pixels.
        correlation: its correlation length, pixels.
        quantisation: step of the disparity, pixels; 0 is none.
        baseline: mm.
        flip: +1 when the second imager is to the right, -1 to the left: on that side of near things lie shadows.
        scale_error: error of the calibration, relative, of all depths.
        blur: pixels over which depth is mixed at edges.
        edge_loss: share of the pixels at depth edges that have no depth.
        holes: share of the picture's blobs without depth.
        dark_loss, grazing_loss: 0..1, how readily dark or shining, and grazing surfaces lose their depth.
        shadows: whether what the second imager cannot see is missing.
    """

    disparity: float = 0.06
    correlation: float = 1.5
    quantisation: float = 1 / 32
    baseline: float = 50.0
    flip: int = 1
    scale_error: float = 0.0
    blur: float = 0.0
    edge_loss: float = 0.0
    holes: float = 0.0
    dark_loss: float = 0.0
    grazing_loss: float = 0.0
    shadows: bool = True

    @classmethod
    def clean(cls) -> SensorNoise:
        """No error at all."""
        return cls(disparity=0.0, quantisation=0.0, shadows=False)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> SensorNoise:
        """One in ten views is clean; the others range from a good camera in good light to a bad one."""
        if rng.uniform() < 0.1:
            return cls.clean()
        bad = rng.uniform(0, 1)
        return cls(
            disparity=float(rng.uniform(0.02, 0.05) + 0.07 * bad * rng.uniform()),
            correlation=float(rng.uniform(0.8, 4.0)),
            quantisation=float(rng.choice([0.0, 1 / 64, 1 / 32, 1 / 16])),
            baseline=float(rng.choice([50.0, 55.0, 95.0], p=[0.6, 0.2, 0.2])),
            flip=int(rng.choice([-1, 1])),
            scale_error=float(rng.normal(0, 0.002)),
            blur=float(rng.uniform(0, 1.8) * bad),
            edge_loss=float(rng.uniform(0, 0.9) * bad),
            holes=float(rng.uniform(0, 0.03) * bad),
            dark_loss=float(rng.uniform(0, 1) * bad),
            grazing_loss=float(rng.uniform(0, 1) * bad),
            shadows=bool(rng.uniform() < 0.85),
        )


@dataclass(frozen=True)
class MaskNoise:
    """Strength of each error of a segmenter; lengths in pixels.

    Attributes:
        grow: most that an outline moves outwards (negative: inwards) as a whole.
        wobble: amplitude of its local, smooth movement, to both sides.
        shift: standard deviation of an object's displacement in the picture.
        cut: probability that an object loses a piece at one side.
        merge: probability that a fragment of it goes to a neighbour it touches.
    """

    grow: tuple[float, float] = (0.0, 0.0)
    wobble: float = 0.0
    shift: float = 0.0
    cut: float = 0.0
    merge: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> MaskNoise:
        """One in four views has exact masks; the others range to a bad segmenter's."""
        if rng.uniform() < 0.25:
            return cls()
        bad = rng.uniform(0, 1)
        return cls(
            grow=(-2.0 * bad, 2.5 * bad),
            wobble=float(rng.uniform(0.5, 3.0) * bad),
            shift=float(rng.uniform(0, 1.2) * bad),
            cut=float(rng.uniform(0, 0.15) * bad),
            merge=float(rng.uniform(0, 0.15) * bad),
        )


def stereo_noise(
    depth: np.ndarray,
    focal: float,
    rng: np.random.Generator,
    baseline: float = 50.0,
    *,
    disparity_error: float = 0.06,
    correlation: float = 1.5,
    quantisation: float = 1 / 32,
    shadows: bool = True,
) -> np.ndarray:
    """Depth as a stereo camera would measure it, (H, W) float32 mm; holes are 0.

    Disparity is focal * baseline / z; its error is a smooth field and it is quantised, so the depth error grows with
    z^2. A pixel whose surface the right imager cannot see, because something to its right in the left picture
    lands on the same place, has no measurement.

    Args:
        depth: (H, W) float32 exact depth of the left imager, mm; 0 is invalid.
        focal: pixels.
        baseline: mm.
        disparity_error: standard deviation, pixels.
        correlation: length over which the error is smooth, pixels.
        quantisation: pixels; 0 is none.
    """
    valid = depth > 0
    disparity = np.where(valid, focal * baseline / np.where(valid, depth, 1), 0)
    hidden = np.zeros(depth.shape, bool)
    if shadows:
        right_column = np.arange(depth.shape[1]) - disparity
        leftmost_beyond = np.minimum.accumulate(right_column[:, ::-1], axis=1)[:, ::-1]
        hidden[:, :-1] = right_column[:, :-1] > leftmost_beyond[:, 1:] + 0.5
    if disparity_error:
        disparity = disparity + disparity_error * _field(depth.shape, correlation, rng)
    if quantisation:
        disparity = np.rint(disparity / quantisation) * quantisation
    seen = valid & ~hidden & (disparity > 0)
    return np.where(seen, focal * baseline / np.where(seen, disparity, 1), 0).astype(np.float32)


def measure_depth(
    depth: np.ndarray, rgb: np.ndarray, intrinsics: np.ndarray, noise: SensorNoise, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) float32 mm, 0 invalid: depth as a camera with these errors measures it.

    Args:
        depth: (H, W) float32 exact, mm, 0 invalid.
        rgb: (H, W, 3) uint8, which tells dark and shining surfaces.
        intrinsics: (3, 3), pixels.
    """
    import cv2

    if noise == SensorNoise.clean():
        return depth.copy()
    focal = float(intrinsics[0, 0])
    valid = depth > 0
    edge = _depth_edges(depth)
    measured = depth
    if noise.blur > 0.3:
        # Matching windows straddle an edge: depths between near and far, mixed in disparity.
        disparity = np.where(valid, 1 / np.where(valid, depth, 1), 0).astype(np.float32)
        weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), noise.blur)
        mixed = cv2.GaussianBlur(disparity, (0, 0), noise.blur) / np.maximum(weight, 1e-6)
        close = cv2.dilate(edge.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=round(noise.blur)) > 0
        measured = np.where(close & valid & (mixed > 0), 1 / np.maximum(mixed, 1e-9), depth)
    flipped = measured[:, ::-1] if noise.flip < 0 else measured
    measured = stereo_noise(
        flipped,
        focal,
        rng,
        noise.baseline,
        disparity_error=noise.disparity,
        correlation=noise.correlation,
        quantisation=noise.quantisation,
        shadows=noise.shadows,
    )
    if noise.flip < 0:
        measured = measured[:, ::-1]
    lost = np.zeros(depth.shape, np.float32)  # probability, made into blobs by a smooth field
    lost += noise.edge_loss * cv2.GaussianBlur(edge.astype(np.float32), (0, 0), 1.0) * 1.5
    if noise.dark_loss:
        light = rgb.mean(axis=2, dtype=np.float32)
        lost += noise.dark_loss * 0.7 * (np.clip(1 - light / 35, 0, 1) + np.clip((light - 242) / 13, 0, 1))
    if noise.grazing_loss:
        lost += noise.grazing_loss * np.clip(1 - _facing(depth, intrinsics) / 0.3, 0, 1)
    # Chance that is uniform at each pixel and smooth over the picture loses whole blobs: fine ones where the
    # surface is hard to see, coarse and clustered ones anywhere.
    missing = _chance(depth.shape, 1.5, rng) < lost
    if noise.holes:
        missing |= _chance(depth.shape, float(rng.uniform(2, 7)), rng) < noise.holes
    measured = np.where(missing, 0, measured * (1 + noise.scale_error))
    return np.ascontiguousarray(measured, np.float32)


def segment(mask: np.ndarray, depth: np.ndarray, noise: MaskNoise, rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 instance mask as a segmenter with these errors gives it.

    No new ids appear, and ids whose mask holds fewer than FEWEST_PIXELS valid depth pixels are dropped.

    Args:
        mask: (H, W) uint8 exact, 0 is the background.
        depth: (H, W) measured depth, mm, 0 invalid.
    """
    import cv2

    result = mask.copy()
    if noise != MaskNoise():
        result = np.zeros_like(mask)
        nearest = np.full(mask.shape, -np.inf, np.float32)
        wobble = noise.wobble * _field(mask.shape, float(rng.uniform(4, 14)), rng)
        for object_id in np.unique(mask[mask > 0]):
            own = (mask == object_id).astype(np.uint8)
            rows, columns = _window(own, margin=24)
            own = own[rows, columns]
            # By no more than the little that is seen of a hidden object: its mask must stay mostly its own.
            most = 0.15 * np.sqrt(own.sum())
            inside = _signed_distance(own) + np.clip(
                rng.uniform(*noise.grow) + wobble[rows, columns], -most, most
            )
            dx, dy = rng.normal(0, noise.shift, 2)
            move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
            moved = cv2.warpAffine(
                inside.astype(np.float32), move, inside.shape[::-1], borderMode=cv2.BORDER_REPLICATE
            )
            inside = np.asarray(moved)
            if rng.uniform() < noise.cut:
                inside = np.minimum(inside, _cut(own, rng))
            # Where masks compete, the one that reaches deeper wins, so the result is one id a pixel.
            wins = (inside > 0) & (inside > nearest[rows, columns])
            nearest[rows, columns][wins] = inside[wins]
            result[rows, columns][wins] = object_id
        if noise.merge:
            result = _merge(result, noise.merge, rng)
    counts = np.bincount(result[depth > 0], minlength=256)
    small = counts < FEWEST_PIXELS
    return np.where(small[result], 0, result).astype(np.uint8)


def _field(shape: tuple[int, ...], correlation: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of standard deviation 1."""
    import cv2

    field = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), correlation)
    return field / field.std()


def _chance(shape: tuple[int, ...], correlation: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise whose values are uniform in 0..1."""
    return 0.5 * (1 + _erf(_field(shape, correlation, rng) / np.sqrt(2)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Error function to 5e-4: Abramowitz and Stegun 7.1.27."""
    a = np.abs(x)
    series = 1 + a * (0.278393 + a * (0.230389 + a * (0.000972 + a * 0.078108)))
    return np.sign(x) * (1 - series**-4)


def _depth_edges(depth: np.ndarray) -> np.ndarray:
    """(H, W) pixels beside a jump of more than 3 % of the depth."""
    edge = np.zeros(depth.shape, bool)
    limit = 0.03 * np.maximum(depth, 1)
    across = np.abs(depth[:, 1:] - depth[:, :-1]) > limit[:, 1:]
    down = np.abs(depth[1:] - depth[:-1]) > limit[1:]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _facing(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(H, W) cosine of the angle between a surface and the line of sight, from differences of the depth."""
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    du = np.gradient(depth, axis=1).astype(np.float32)
    dv = np.gradient(depth, axis=0).astype(np.float32)
    x = ((np.arange(width) - cx) / fx).astype(np.float32)
    y = ((np.arange(height) - cy) / fy).astype(np.float32)[:, None]
    # The normal of z(u, v), in optical axes: see any text on shape from depth.
    nx, ny = fx * du, fy * dv
    nz = -(depth + x * nx + y * ny)
    length = np.sqrt(nx**2 + ny**2 + nz**2) * np.sqrt(x**2 + y**2 + 1)
    return np.abs(nx * x + ny * y + nz) / np.maximum(length, 1e-6)


def _window(own: np.ndarray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )


def _signed_distance(own: np.ndarray) -> np.ndarray:
    """Pixels to the outline, positive inside; +-0.5 at the pixels beside it."""
    import cv2

    inside = cv2.distanceTransform(own, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - own, cv2.DIST_L2, 5)
    return np.where(own > 0, inside - 0.5, 0.5 - outside)


def _cut(own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signed distance to a line that cuts off up to a third of the object at a random side."""
    v, u = np.nonzero(own)
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    along = u * direction[0] + v * direction[1]
    limit = np.quantile(along, rng.uniform(0.67, 0.95))
    rows, columns = np.mgrid[: own.shape[0], : own.shape[1]]
    return limit - (columns * direction[0] + rows * direction[1])


def _merge(mask: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """The mask with, now and then, a fragment of an object given to one that it touches."""
    result = mask.copy()
    for object_id in np.unique(mask[mask > 0]):
        if rng.uniform() >= probability:
            continue
        own = mask == object_id
        right, below = np.zeros_like(own), np.zeros_like(own)
        right[:, :-1] = own[:, :-1] & (mask[:, 1:] > 0) & (mask[:, 1:] != object_id)
        below[:-1] = own[:-1] & (mask[1:] > 0) & (mask[1:] != object_id)
        v, u = np.nonzero(right | below)
        if len(v) == 0:
            continue
        pick = int(rng.integers(len(v)))
        v0, u0 = int(v[pick]), int(u[pick])
        other = mask[v0, u0 + 1] if right[v0, u0] else mask[v0 + 1, u0]
        # Up to a fifth of either.
        radius = 0.25 * np.sqrt(min(own.sum(), np.count_nonzero(mask == other)))
        rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
        result[own & (np.hypot(rows - v0, columns - u0) < radius)] = other
    return result
