"""One RGB-D picture with its camera: what every camera delivers and the pipeline takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from zerograsp_edge.runtime.errors import FrameError, NoObjectError

# Depth at or below this is no measurement: spec, "Units and frames".
MIN_DEPTH_MM = 10.0


@dataclass(frozen=True, eq=False)
class Frame:
    """An RGB picture, the depth image registered to it, and the intrinsics of both; checked when it is made.

    Depth that is NaN, infinite or negative is no measurement: it is set to 0 and counted in `repaired_depth`,
    like the zeros a camera writes itself. It is an error only when no pixel at all is deeper than 10 mm. The
    unit is never guessed. The arrays are not copied unless they have to be converted or are not contiguous;
    do not write to them afterwards.

    Attributes:
        rgb: (H, W, 3) uint8, red first.
        depth: (H, W) float32, mm along the optical axis, 0 = no measurement. uint16 (mm) and float64 are
            converted.
        intrinsics: (3, 3) float32, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels; integer coordinates are
            pixel centres.
        mask: (H, W) integer instance ids, or None before segmentation. Bool is taken as background and one
            object.
        timestamp: seconds, the camera's clock.
        name: what messages and output folders call the frame.
        background: mask value that is no object; None means the smallest value in the mask. Only where it is given
            may the mask hold no object at all: an empty scene.
        metadata: what the camera says about the exposure, by its own names; may be empty.
        repaired_depth: number of NaN, infinite or negative depth values that were set to 0.

    Raises:
        FrameError: an array, or K, is not as described; the message names expected and actual.
    """

    rgb: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    mask: np.ndarray | None = None
    timestamp: float = 0.0
    name: str = "frame"
    background: int | None = None
    metadata: Mapping[str, float] = field(default_factory=dict)
    repaired_depth: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rgb = _checked_rgb(self.rgb)
        object.__setattr__(self, "intrinsics", check_intrinsics(self.intrinsics, rgb.shape[1], rgb.shape[0]))
        self._check_measurements()

    def _check_measurements(self) -> None:
        shape = self.rgb.shape[:2]
        depth, repaired = _checked_depth(self.depth, shape)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "repaired_depth", repaired)
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask, shape))
            if self.background is None and not self.object_ids():
                raise NoObjectError(
                    f"mask holds no object: every pixel is background, {self.background_id}; "
                    "expected at least two distinct values (the smallest is the background), or background=... "
                    "where an empty scene is meant"
                )

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])

    @cached_property
    def _mask_values(self) -> tuple[int, ...]:
        if self.mask is None:
            raise FrameError(
                f"frame '{self.name}' has no instance mask; "
                "give the pipeline a segmenter (GeometricSegmenter), or use with_mask()"
            )
        return _distinct(self.mask)

    @property
    def background_id(self) -> int:
        """The mask value of the background."""
        return self._mask_values[0] if self.background is None else self.background

    def object_ids(self) -> tuple[int, ...]:
        """Mask values of the objects, ascending: the distinct ones without the background (spec, "Input")."""
        return tuple(value for value in self._mask_values if value != self.background_id)

    def label_image(self, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W) int32: index into `object_ids()`, -1 on the background; written to `out` where that is given."""
        mask, values = self.mask, np.array(self._mask_values)
        assert mask is not None  # _mask_values has raised otherwise
        labels = (np.cumsum(values != self.background_id) - 1).astype(np.int32)
        labels[values == self.background_id] = -1
        out = np.empty(mask.shape, np.int32) if out is None else out
        low, high = int(values[0]), int(values[-1])
        if high - low >= 1 << 16:
            return np.take(labels, np.searchsorted(values, mask), out=out, mode="clip")
        table = np.full(high - low + 1, -1, np.int32)
        table[values - low] = labels
        # Every index is valid; "clip" is the mode in which NumPy writes to `out` without a buffer of its own.
        return np.take(table, mask.astype(np.int64) - low if low else mask, out=out, mode="clip")

    def with_mask(self, mask: np.ndarray, background: int | None = None) -> Frame:
        """The same picture with another (H, W) instance mask."""
        return self._replaced(mask=mask, background=background)

    def crop(self, top: int = 0, bottom: int | None = None, left: int = 0, right: int | None = None) -> Frame:
        """The rows [top, bottom) and columns [left, right), with the principal point moved along.

        The background value is kept, so a crop that leaves no background pixel does not turn an object into
        background.

        Raises:
            FrameError: the ranges are empty or reach outside the picture, or what is left is no valid frame.
        """
        bottom = self.height if bottom is None else bottom
        right = self.width if right is None else right
        if not (0 <= top < bottom <= self.height and 0 <= left < right <= self.width):
            raise FrameError(
                f"crop rows [{top}, {bottom}) columns [{left}, {right}) does not lie inside "
                f"rows [0, {self.height}) columns [0, {self.width})"
            )
        rows, columns = slice(top, bottom), slice(left, right)
        intrinsics = self.intrinsics.copy()
        intrinsics[0, 2] -= left
        intrinsics[1, 2] -= top
        return self._replaced(
            rgb=np.ascontiguousarray(self.rgb[rows, columns]),
            depth=np.ascontiguousarray(self.depth[rows, columns]),
            intrinsics=intrinsics,
            mask=None if self.mask is None else np.ascontiguousarray(self.mask[rows, columns]),
            background=None if self.mask is None else self.background_id,
        )

    def point_image(self) -> np.ndarray:
        """(H, W, 3) float32: the point of every pixel, mm, camera optical frame; 0 where depth is 0."""
        fx, fy = self.intrinsics[0, 0], self.intrinsics[1, 1]
        x = (np.arange(self.width, dtype=np.float32) - self.intrinsics[0, 2]) / fx
        y = (np.arange(self.height, dtype=np.float32) - self.intrinsics[1, 2]) / fy
        return np.stack([x * self.depth, y[:, None] * self.depth, self.depth], axis=-1)

    def _replaced(self, **changes: object) -> Frame:
        """A copy with changes. Intrinsics are not judged again: a crop may lie far from the optical axis."""
        frame = object.__new__(Frame)
        for name in self.__dataclass_fields__:
            object.__setattr__(frame, name, changes.get(name, getattr(self, name)))
        frame._check_measurements()
        return frame


def check_object_count(object_ids: tuple[int, ...], limit: int) -> None:
    """Raise FrameError when a frame has more objects than a bundle was made for; never drop any."""
    if len(object_ids) > limit:
        raise FrameError(
            f"frame has {len(object_ids)} objects, the bundle's limit is {limit}; "
            f"merge or drop masks, or export a bundle with a larger limit (max_objects >= {len(object_ids)})"
        )


def check_intrinsics(intrinsics: np.ndarray, width: int, height: int) -> np.ndarray:
    """(3, 3) float32 pinhole matrix in pixels for a picture of that size.

    Raises:
        FrameError: wrong shape, not finite, focal length not positive or not in pixels, skew, last row not
            (0, 0, 1), or the principal point more than a picture size outside the picture.
    """
    try:
        matrix = np.ascontiguousarray(intrinsics, np.float32)
    except (TypeError, ValueError) as error:
        raise FrameError(
            f"intrinsics must be a 3x3 matrix of numbers, got {type(intrinsics).__name__}"
        ) from error
    if matrix.shape != (3, 3):
        raise FrameError(f"intrinsics must have shape (3, 3), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise FrameError(f"intrinsics must be finite, got {matrix.tolist()}")
    fx, fy, cx, cy = (float(v) for v in (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    if fx <= 0 or fy <= 0:
        raise FrameError(f"focal lengths must be positive, got fx = {fx:g}, fy = {fy:g}")
    if np.any(matrix[2] != (0, 0, 1)) or matrix[1, 0] != 0:
        raise FrameError(f"intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {matrix.tolist()}")
    if matrix[0, 1] != 0:
        raise FrameError(
            f"intrinsics must have no skew, got K[0, 1] = {float(matrix[0, 1]):g}; rectify the picture first"
        )
    if fx < width / 50 or fy < height / 50:
        raise FrameError(
            f"focal lengths fx = {fx:g}, fy = {fy:g} are not in pixels of a {width}x{height} picture"
        )
    if not (-width <= cx <= 2 * width and -height <= cy <= 2 * height):
        raise FrameError(
            f"principal point ({cx:g}, {cy:g}) lies far outside the {width}x{height} picture; "
            "are these the intrinsics of another resolution?"
        )
    return np.ascontiguousarray(matrix)


def _checked_rgb(rgb: np.ndarray) -> np.ndarray:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8:
        raise FrameError(f"rgb must be a uint8 array, got {_kind(rgb)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise FrameError(f"rgb must have shape (H, W, 3), got {rgb.shape}")
    return np.ascontiguousarray(rgb)


def _checked_depth(depth: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    if not isinstance(depth, np.ndarray) or depth.dtype not in (np.float32, np.float64, np.uint16):
        raise FrameError(f"depth must be float32 or uint16 millimetres, got {_kind(depth)}")
    if depth.shape != shape:
        raise FrameError(f"depth must have the size of rgb, {shape} (rows, columns), got {depth.shape}")
    repaired = 0
    if depth.dtype == np.uint16:
        depth = depth.astype(np.float32)
    else:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, hence "no measurement"
            depth = depth.astype(np.float32, copy=False)
        bad = ~((depth >= 0) & (depth < np.inf))
        repaired = int(np.count_nonzero(bad))
        if repaired:
            depth = np.where(bad, np.float32(0), depth)
    depth = np.ascontiguousarray(depth)
    deepest = float(depth.max())
    if deepest <= MIN_DEPTH_MM:
        hint = ": are these metres? depth must be in millimetres" if deepest > 0 else ""
        raise FrameError(
            f"depth has no valid pixel: none is deeper than {MIN_DEPTH_MM:g} mm, "
            f"the largest value is {deepest:g}{hint}"
        )
    return np.ascontiguousarray(depth), repaired


def _checked_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "iub":
        raise FrameError(f"mask must be an array of integer instance ids, got {_kind(mask)}")
    if mask.shape != shape:
        raise FrameError(f"mask must have the size of rgb, {shape} (rows, columns), got {mask.shape}")
    return np.ascontiguousarray(mask.astype(np.uint8) if mask.dtype == np.bool_ else mask)


def _distinct(mask: np.ndarray) -> tuple[int, ...]:
    """Distinct values, ascending; the usual small ids are counted, which spares np.unique's sort."""
    low, high = int(mask.min()), int(mask.max())
    if high - low >= 1 << 16:
        return tuple(int(value) for value in np.unique(mask))
    shifted = mask.ravel() if low == 0 and mask.dtype.itemsize < 8 else mask.ravel().astype(np.int64) - low
    return tuple(int(value) + low for value in np.flatnonzero(np.bincount(shifted)))


def _kind(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
