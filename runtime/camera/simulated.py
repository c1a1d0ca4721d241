"""A camera without hardware: analytic objects on a table, ray-cast, with exact depth, masks and ground truth.

It stands in for a robot-mounted depth camera in demos, tests and benchmarks: everything a real frame has,
plus the truth. Deterministic: a frame depends on the seed and its index only.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.camera.scene import SceneObject, make_scene
from zerograsp_edge.runtime.camera.shading import TABLES, shade
from zerograsp_edge.runtime.errors import EndOfFrames
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.simulation.sensor import stereo_noise

if TYPE_CHECKING:
    import trimesh

# Focal length of a RealSense D435's colour camera at 640x480.
_FOCAL_AT_640 = 615.0
MAX_OBJECTS = 32


@dataclass(frozen=True, eq=False)
class TrueObject:
    """The truth about one object in one frame, in the camera's optical frame.

    Attributes:
        object_id: its value in the instance mask.
        pose: (4, 4), camera <- object, mm.
        visible_fraction: visible pixels / pixels it would cover if nothing stood before it, in this picture;
            0 when hidden or outside.
    """

    object_id: int
    source: SceneObject
    pose: np.ndarray
    visible_fraction: float

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) exact signed distance of (n, 3) camera-frame points, mm, positive outside."""
        return self.source.shape.distance((points - self.pose[:3, 3]) @ self.pose[:3, :3])

    def mesh(self) -> trimesh.Trimesh:
        """Closed mesh, mm, camera frame."""
        mesh = self.source.shape.mesh()
        mesh.apply_transform(self.pose)
        return mesh


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The truth about one frame.

    Attributes:
        objects: all objects of the scene, also hidden ones.
        camera_pose: (4, 4), table <- camera, mm; the table's top is z = 0, z up.
        depth: (H, W) float32, mm, without sensor noise.
    """

    objects: tuple[TrueObject, ...]
    camera_pose: np.ndarray
    depth: np.ndarray


class SimulatedCamera:
    """A camera that orbits a table with objects.

    Args:
        seed: chooses scene, camera path and noise.
        num_objects: 1..32.
        width, height: picture size, pixels; the focal length is that of a RealSense colour camera, 615 at
            width 640.
        moving: False keeps the camera at the first frame's pose.
        depth_noise: adds what stereo depth has: error growing with z^2, quantised disparity, and holes where
            one of the two imagers sees a surface and the other does not.
        table: `wood` or `grid`; None lets the seed choose.
        rate: frames per second that timestamps and motion are made from.
        num_frames: `read()` ends after that many; None is endless.
    """

    live = False
    clock: TimestampClock = "own"

    def __init__(
        self,
        seed: int = 0,
        num_objects: int = 5,
        width: int = 640,
        height: int = 480,
        *,
        moving: bool = True,
        depth_noise: bool = False,
        table: str | None = None,
        rate: float = 30.0,
        num_frames: int | None = None,
    ) -> None:
        if not 1 <= num_objects <= MAX_OBJECTS:
            raise ValueError(f"num_objects must lie in 1..{MAX_OBJECTS}, got {num_objects}")
        if width < 16 or height < 16:
            raise ValueError(f"picture must be at least 16x16, got {width}x{height}")
        if table is not None and table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got '{table}'")
        rng = np.random.default_rng(seed)
        focal = _FOCAL_AT_640 * width / 640
        self.intrinsics = np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float32
        )
        v, u = np.mgrid[:height, :width]
        self._rays = self._directions(u.ravel(), v.ravel())
        self.seed, self.width, self.height = seed, width, height
        self._moving, self._depth_noise, self._rate, self._num_frames = moving, depth_noise, rate, num_frames
        self._table = table if table is not None else TABLES[int(rng.integers(len(TABLES)))]
        # From farther away when there is more to see, within a wrist camera's 0.5 to 0.9 m.
        self._range = float(np.clip(rng.uniform(470, 540) + 20 * num_objects, 500, 860))
        self._tilt = float(np.radians(rng.uniform(24, 40)))
        self._azimuth = float(rng.uniform(0, 2 * np.pi))
        visible_half = self._range * min(width, height) / (2 * focal)
        self.scene = make_scene(rng, num_objects, radius=min(0.82 * visible_half, 62 * np.sqrt(num_objects)))
        self._index = 0
        self._truth: GroundTruth | None = None

    def read(self) -> Frame:
        """The next frame; `ground_truth` then belongs to it."""
        if self._num_frames is not None and self._index >= self._num_frames:
            raise EndOfFrames(
                f"the simulated camera was asked for {self._num_frames} frames, all have been read"
            )
        frame, self._truth = self.render(self._index)
        self._index += 1
        return frame

    @property
    def name(self) -> str:
        return f"simulated scene {self.seed}"

    @property
    def counters(self) -> CameraCounters:
        return CameraCounters(frames=self._index)

    @property
    def ground_truth(self) -> GroundTruth:
        """The truth about the frame that `read()` returned last."""
        if self._truth is None:
            raise ValueError("no frame has been read yet; call read() first")
        return self._truth

    def render(self, index: int) -> tuple[Frame, GroundTruth]:
        """Frame number `index` and the truth about it, independent of `read()`."""
        camera_pose = self._camera_pose(index)
        eye, rotation = camera_pose[:3, 3], camera_pose[:3, :3]
        directions = self._rays @ rotation.T
        depth, labels, covered = cast(self.scene, eye, directions)
        visible = np.bincount(labels + 1, minlength=len(self.scene) + 1)[1:]
        rng = np.random.default_rng((self.seed, index))
        colour = self._antialiased(
            shade(self.scene, self._table, eye, directions, depth, labels), eye, rotation, labels
        )
        exact = np.where(np.isfinite(depth), depth, 0).astype(np.float32).reshape(self.height, self.width)
        measured = stereo_noise(exact, float(self.intrinsics[0, 0]), rng) if self._depth_noise else exact
        inverse = np.linalg.inv(camera_pose)
        objects = tuple(
            TrueObject(item.object_id, item, inverse @ item.pose, float(seen / max(whole, 1)))
            for item, seen, whole in zip(self.scene, visible, covered, strict=True)
        )
        frame = Frame(
            rgb=self._developed(colour, rng),
            depth=measured,
            intrinsics=self.intrinsics,
            mask=(labels + 1).astype(np.uint8).reshape(self.height, self.width),
            timestamp=index / self._rate,
            name=f"simulated-{self.seed}-{index:04d}",
            background=0,
        )
        return frame, GroundTruth(objects, camera_pose, exact)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> SimulatedCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _camera_pose(self, index: int) -> np.ndarray:
        """Orbits once in 40 s, and breathes a little in height."""
        time = index / self._rate if self._moving else 0.0
        azimuth = self._azimuth + 2 * np.pi * time / 40
        reach = self._range * (1 + 0.04 * np.sin(2 * np.pi * time / 7))
        outward = np.array(
            [np.sin(self._tilt) * np.cos(azimuth), np.sin(self._tilt) * np.sin(azimuth), np.cos(self._tilt)]
        )
        target = np.array([0.0, 0.0, 15.0])
        forward = -outward
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(forward, right), forward
        pose[:3, 3] = target + reach * outward
        return pose

    def _directions(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n, 3) rays in the camera frame with z = 1, so that the ray parameter is the depth."""
        focal, cx, cy = self.intrinsics[0, 0], self.intrinsics[0, 2], self.intrinsics[1, 2]
        return np.stack([(u - cx) / focal, (v - cy) / focal, np.ones(len(u))], axis=1)

    def _antialiased(
        self, colour: np.ndarray, eye: np.ndarray, rotation: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        """Linear colour with the pixels at outlines averaged over four rays each."""
        picture = labels.reshape(self.height, self.width)
        edge = np.zeros(picture.shape, bool)
        across, down = picture[:, 1:] != picture[:, :-1], picture[1:] != picture[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        v, u = np.nonzero(edge)
        rays = [
            self._directions(u + du, v + dv)
            for du, dv in ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))
        ]
        directions = np.concatenate(rays) @ rotation.T
        depth, hit, _ = cast(self.scene, eye, directions)
        samples = shade(self.scene, self._table, eye, directions, depth, hit)
        colour[edge.ravel()] = samples.reshape(len(rays), -1, 3).mean(axis=0)
        return colour

    def _developed(self, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 sRGB with a little sensor noise from linear colour."""
        display = np.clip(colour, 0, 1) ** np.float32(1 / 2.2) * 255
        display += 1.5 * rng.standard_normal(display.shape, np.float32)
        return np.clip(np.rint(display), 0, 255).astype(np.uint8).reshape(self.height, self.width, 3)


def cast(
    scene: tuple[SceneObject, ...], eye: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits of rays from one point, in the table's frame.

    Args:
        eye: (3,) mm.
        directions: (n, 3).

    Returns:
        (n,) ray parameter of the first hit, inf for rays into the sky; (n,) int32 index of the object hit,
        -1 for the table or nothing; (number of objects,) rays that each object would stop if it stood alone.
    """
    with np.errstate(divide="ignore"):
        nearest = np.where(directions[:, 2] < 0, -eye[2] / directions[:, 2], np.inf)
    labels = np.full(len(directions), -1, np.int32)
    covered = np.zeros(len(scene), np.int64)
    squared_length = np.einsum("ni,ni->n", directions, directions)
    to_centres = np.array([item.pose[:3, 3] - eye for item in scene])
    along = to_centres @ directions.T
    for i, item in enumerate(scene):
        to_centre = to_centres[i]
        margin = to_centre @ to_centre - item.shape.bounding_radius**2
        # Only the rays that meet the bounding sphere.
        rays = np.flatnonzero((along[i] > 0) & (along[i] ** 2 >= squared_length * margin))
        rotation = item.pose[:3, :3]
        t = item.shape.intersect(-to_centre @ rotation, directions[rays] @ rotation)
        covered[i] = np.count_nonzero(np.isfinite(t))
        closer = t < nearest[rays]
        nearest[rays[closer]] = t[closer]
        labels[rays[closer]] = i
    return nearest, labels, covered
