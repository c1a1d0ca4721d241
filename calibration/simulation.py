"""Pictures of a board with known truth: for tests, benchmarks and trying the guided calibration without a robot."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board, Detection, board_pose
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.printing import draw_board
from zerograsp_edge.calibration.transforms import from_vector, invert, rotation_matrix, transform
from zerograsp_edge.runtime.hand_eye import Mode

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Imaging:
    """What a real picture has: blur and noise in grey levels of 255, light falling off across the picture."""

    blur_px: float = 0.7
    noise: float = 3.0
    gradient: float = 0.35
    background: int = 110


@dataclass(frozen=True)
class Repeatability:
    """Standard deviation of a robot's reported poses, per axis."""

    translation_m: float = 1e-4
    rotation_rad: float = float(np.radians(0.02))


@dataclass(frozen=True, eq=False)
class Rig:
    """A robot, a camera and a board with everything known.

    Attributes:
        mode: `eye-in-hand` or `eye-to-hand`.
        camera: the camera.
        board: the board.
        mounted: (4, 4), m: hand <- camera (eye-in-hand) or base <- camera (eye-to-hand).
        board_mounted: (4, 4), m: base <- board (eye-in-hand) or hand <- board (eye-to-hand).
    """

    mode: Mode
    camera: CameraModel
    board: Board
    mounted: np.ndarray
    board_mounted: np.ndarray
    imaging: Imaging = field(default_factory=Imaging)
    repeatability: Repeatability = field(default_factory=Repeatability)

    def hand_pose(self, camera_from_board: np.ndarray) -> np.ndarray:
        """Base <- hand (..., 4, 4) at which the board is seen at that pose."""
        chain = self.mounted @ camera_from_board @ invert(self.board_mounted)
        return chain if self.mode == "eye-to-hand" else invert(chain)

    def camera_from_board(self, hand_pose: np.ndarray) -> np.ndarray:
        """The inverse of `hand_pose`."""
        step = hand_pose if self.mode == "eye-to-hand" else invert(hand_pose)
        return invert(self.mounted) @ step @ self.board_mounted

    def reported(self, hand_pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the robot says about true poses (..., 4, 4): they with its repeatability, in the hand's frame."""
        noise = rng.normal(size=(*hand_pose.shape[:-2], 6))
        noise[..., :3] *= self.repeatability.rotation_rad
        noise[..., 3:] *= self.repeatability.translation_m
        return hand_pose @ from_vector(noise)

    def detection(
        self, camera_from_board: np.ndarray, rng: np.random.Generator, corner_px: float = 0.06
    ) -> Detection:
        """All corners at a true pose (4, 4) with normal noise, without a picture: for statistics."""
        r, t = camera_from_board[:3, :3], camera_from_board[:3, 3]
        k, d = self.camera.intrinsics, self.camera.distortion
        pixels = cv2.projectPoints(self.board.corners, cv2.Rodrigues(r)[0], t, k, d)[0].reshape(-1, 2)
        pixels = pixels + rng.normal(0, corner_px, pixels.shape)
        pose, rms = board_pose(self.board.corners, pixels, self.camera)
        return Detection(np.arange(len(pixels)), pixels, pose, rms)

    def picture(self, hand_pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W) uint8 picture at a true hand pose."""
        return render(self.board, self.camera, self.camera_from_board(hand_pose), self.imaging, rng)


def make_rig(mode: Mode, seed: int = 0, camera: CameraModel | None = None, board: Board | None = None) -> Rig:
    """A rig with mountings that are no round numbers."""
    rng = np.random.default_rng(seed)
    if camera is None:
        camera = CameraModel(np.array([[615.0, 0, 319.5], [0, 615.0, 239.5], [0, 0, 1]]), size=(640, 480))
    near = from_vector(np.append(rng.normal(0, 0.4, 3), rng.normal([0.04, -0.03, 0.06], 0.02)))
    # Base to camera or board, half a metre to a metre away, facing anywhere.
    far = from_vector(np.append(rng.normal(0, 1.0, 3), rng.normal([0.6, 0.1, 0.3], 0.1)))
    mounted, board_mounted = (near, far) if mode == "eye-in-hand" else (far, near)
    return Rig(mode, camera, board or Board(), mounted, board_mounted)


def board_views(rig: Rig, count: int, rng: np.random.Generator, tilt_deg: float = 35.0) -> np.ndarray:
    """(count, 4, 4) camera <- board: tilted up to `tilt_deg` about axes all around, rolled, near and far."""
    k = rig.camera.intrinsics
    if rig.camera.size is None:
        raise ValueError("the rig's camera needs a picture size")
    width, height = rig.camera.size
    fill = max(rig.board.size_m[0] * k[0, 0] / width, rig.board.size_m[1] * k[1, 1] / height)
    tilt = np.radians(tilt_deg) * np.sqrt(rng.uniform(0.25, 1, count))
    azimuth = 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.5, count)) * 0.381966  # golden section
    axis = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros(count)], axis=1)
    roll = np.radians(rng.uniform(-40, 40, count))[:, None] * [0.0, 0.0, 1.0]
    rotation = rotation_matrix(tilt[:, None] * axis) @ rotation_matrix(roll)
    distance = fill * rng.uniform(1.35, 2.0, count)
    offset = rng.uniform(-0.12, 0.12, (count, 2)) * [width / k[0, 0], height / k[1, 1]]
    centre = distance[:, None] * np.concatenate([offset, np.ones((count, 1))], axis=1)
    return transform(rotation, centre - rotation @ rig.board.centre)


def render(
    board: Board,
    camera: CameraModel,
    camera_from_board: np.ndarray,
    imaging: Imaging,
    rng: np.random.Generator,
) -> np.ndarray:
    """(H, W) uint8 picture of a flat board: homography and distortion, area-sampled, blurred, lit unevenly, noisy."""
    if camera.size is None:
        raise ValueError("rendering needs a camera with a picture size")
    width, height = camera.size
    factor = _SUPERSAMPLING
    # The print, drawn near the resolution at which the picture samples it, so that sampling does not alias.
    distance = float((camera_from_board @ np.append(board.centre, 1))[2])
    density = 1.5 * factor * camera.intrinsics[0, 0] / distance
    margin = board.square_m / 3
    paper = draw_board(board, density, margin)
    # Columns x, y and origin of the board frame make the homography from the board's plane to rays.
    homography = np.linalg.inv(camera_from_board[:3, [0, 1, 3]])
    to_paper = np.array(
        [[density, 0, margin * density - 0.5], [0, density, margin * density - 0.5], [0, 0, 1]]
    )
    rays = _rays(camera.intrinsics.tobytes(), camera.distortion.tobytes(), (width, height))
    maps = cv2.perspectiveTransform(rays, to_paper @ homography)
    u, v = cv2.split(maps)
    picture = cv2.remap(
        paper, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=imaging.background
    )
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), imaging.blur_px)
    direction = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    slope = np.cos(direction) * x[None] + np.sin(direction) * y[:, None]
    light = 0.75 * (1 - imaging.gradient * (0.5 + slope / (2 * np.sqrt(2))))
    picture = 20 + picture * light + rng.normal(0, imaging.noise, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _rays(intrinsics: bytes, distortion: bytes, size: tuple[int, int]) -> np.ndarray:
    """(H f, W f, 2) float32 directions x / z, y / z of the supersampled pixels of a camera."""
    k, d = np.frombuffer(intrinsics).reshape(3, 3), np.frombuffer(distortion)
    width, height = size
    u, v = (np.arange(n * _SUPERSAMPLING) + 0.5 for n in (width, height))
    pixels = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2) / _SUPERSAMPLING - 0.5
    if d.any():
        rays = cv2.undistortPoints(pixels, k, d)
    else:
        rays = (pixels - k[:2, 2]) / np.diag(k)[:2]
    return np.float32(rays).reshape(height * _SUPERSAMPLING, width * _SUPERSAMPLING, 2)


def board_depth(
    board: Board, camera: CameraModel, camera_from_board: np.ndarray, wall_m: float = 1.5
) -> np.ndarray:
    """(H, W) float32 exact depth, mm, of the board as `render` shows it, before a wall; no lens distortion."""
    if camera.size is None or camera.distortion.any():
        raise ValueError("depth needs a camera with a picture size, without distortion")
    k = camera.intrinsics
    x = (np.arange(camera.size[0]) - k[0, 2]) / k[0, 0]
    y = ((np.arange(camera.size[1]) - k[1, 2]) / k[1, 1])[:, None]
    normal, origin = camera_from_board[:3, 2], camera_from_board[:3, 3]
    inverse = (normal[0] * x + normal[1] * y + normal[2]) / float(normal @ origin)
    z = 1 / np.where(inverse > 1e-6, inverse, np.inf)
    point = np.stack([x * z, y * z, z], axis=-1) - origin
    along = [point @ camera_from_board[:3, i] for i in range(2)]
    margin = board.square_m / 3  # of the paper, as it is rendered
    on = (z > 0) & np.logical_and.reduce([
        (a > -margin) & (a < length + margin) for a, length in zip(along, board.size_m, strict=True)
    ])  # fmt: skip
    return np.where(on, 1000 * z, 1000 * wall_m).astype(np.float32)


def checking_views(
    board: Board,
    camera: CameraModel,
    count: int,
    rng: np.random.Generator,
    tilt_deg: float = 30.0,
    distances_m: tuple[float, float] = (0.35, 0.75),
    reach: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> np.ndarray:
    """(count, 4, 4) camera <- board as a camera check wants them: all over the picture, tilted all around.

    Args:
        reach: left, top, right, bottom of the part of the picture, 0 to 1, in which the whole board stays.
    """
    if camera.size is None:
        raise ValueError("views need a camera with a picture size")
    size, k = np.array(camera.size), camera.intrinsics
    low, high = size * reach[:2], size * reach[2:]
    width, height = board.size_m
    outline = np.array([[0, 0, 0], [width, 0, 0], [width, height, 0], [0, height, 0]])
    poses: list[np.ndarray] = []
    while len(poses) < count:
        i = len(poses)
        azimuth = 2 * np.pi * (i * 0.381966 + rng.uniform(0, 0.1))  # golden section
        tilt = np.radians(tilt_deg) * np.sqrt(rng.uniform(0.4, 1))
        rotation = rotation_matrix(tilt * np.array([np.cos(azimuth), np.sin(azimuth), 0.0])) @ rotation_matrix(
            np.radians(rng.uniform(-15, 15)) * np.array([0.0, 0.0, 1.0])
        )
        distance = distances_m[0] * (distances_m[1] / distances_m[0]) ** ((i % 4 + rng.uniform(0, 1)) / 4)
        pixel = low + rng.uniform(0, 1, 2) * (high - low)
        # To the picture's corners in turn, as far as the board stays in it.
        middle = (low + high) / 2
        pixel = np.where([i % 2, (i // 2) % 2], np.maximum(pixel, middle), np.minimum(pixel, middle))
        for _ in range(60):
            centre = distance * np.append((pixel - k[:2, 2]) / np.diag(k)[:2], 1)
            pose = transform(rotation, centre - rotation @ board.centre)
            seen = outline @ pose[:3, :3].T + pose[:3, 3]
            seen = seen[:, :2] / seen[:, 2:] * np.diag(k)[:2] + k[:2, 2]
            over = np.maximum(low + 3 - seen.min(axis=0), 0) - np.maximum(seen.max(axis=0) - high + 3, 0)
            if not over.any():
                poses.append(pose)
                break
            pixel = pixel + over
    return np.stack(poses)
