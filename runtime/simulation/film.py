"""A short animation of a simulated robot at work: noted while it works, rendered afterwards (extra `sim`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.outputs import replacing
from zerograsp_edge.runtime.overlay import draw_overlay, gripper_wireframe, object_colour
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.simulation.physics import MM
from zerograsp_edge.runtime.simulation.render import WorldRenderer
from zerograsp_edge.runtime.simulation.scenes import look_at
from zerograsp_edge.runtime.simulation.world import SupportBox

if TYPE_CHECKING:
    from zerograsp_edge.runtime.robot.simulated import SimulatedRobot

# Left the world, right what perception made of it, below the caption.
_SCENE, _INSET, _BAR, _GAP = (520, 440), (250, 201), 30, 2
_TITLE = 19
WIDTH, HEIGHT = _SCENE[0] + _INSET[0], _SCENE[1] + _BAR
_SAMPLES = 1.5  # rendered that much larger and averaged: the renderer has no antialiasing
# From the front right, so that the approach, the lift and what lies behind are seen.
_EYE, _TARGET, _FOCAL = np.array([400.0, -520.0, 400.0]), np.array([5.0, 5.0, 70.0]), 700.0
_BOXES = 3
_INK, _GROUND, _GRASP = (245, 245, 245), (24, 24, 28), (70, 214, 100)


@dataclass(frozen=True, eq=False)
class _Sight:
    """What perception made of a frame, ready to be shown."""

    overlay: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True, eq=False)
class _Shot:
    """The world at a moment."""

    time: float
    poses: np.ndarray
    shown: np.ndarray
    boxes: list[SupportBox]
    caption: str
    sight: _Sight


@dataclass
class Film:
    """Notes where everything is, a few times per simulated second, and renders that later.

    Wrap what the loop is given: `robot.sleep` is replaced so that it notes, `perceive` is wrapped by `watch`.

    Args:
        robot: whose world is shown.
        caption: what is written below, asked at each picture.
        rate: pictures per simulated second, asked at each picture.
        seed: of textures and lights; the camera's, for the same ones.
    """

    robot: SimulatedRobot
    caption: Callable[[], str]
    rate: Callable[[], float] = lambda: 5.0
    seed: int = 0
    _shots: list[_Shot] = field(default_factory=list)
    _sight: _Sight | None = None
    _next: float = 0.0

    def __post_init__(self) -> None:
        sleep = self.robot.sleep

        def noting(seconds: float) -> None:
            sleep(seconds)
            if self.robot.now() >= self._next:
                self._next = self.robot.now() + 1 / self.rate()
                self.note()

        self.robot.sleep = noting  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self._shots)

    def note(self) -> None:
        """The world as it is now, once something has been perceived."""
        if self._sight is None:
            return
        robot = self.robot
        self._shots.append(
            _Shot(
                robot.now(), robot.object_poses(), robot.present(), robot.gripper_boxes(), self.caption(), self._sight
            )
        )  # fmt: skip

    def watch(self, perceive: Callable[[Frame, np.ndarray], Result]) -> Callable[[Frame, np.ndarray], Result]:
        """The same perception; what it sees is shown in the corner from then on."""

        def watched(frame: Frame, base_from_camera: np.ndarray) -> Result:
            result = perceive(frame, base_from_camera)
            self._sight = _Sight(
                _cropped(draw_overlay(frame, result, per_object=1), frame), _draw_shapes(result, base_from_camera)
            )
            return result

        return watched

    def render(self, progress: Callable[[int], object] = lambda count: None) -> list[np.ndarray]:
        """(HEIGHT, WIDTH, 3) uint8 pictures of everything noted. `progress` is told how many are done.

        Raises:
            RenderError: no offscreen OpenGL.
        """
        width, height = size = (round(_SCENE[0] * _SAMPLES), round(_SCENE[1] * _SAMPLES))
        focal = _FOCAL * _SAMPLES
        pose = look_at(_EYE, _TARGET)
        intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        pictures = []
        with WorldRenderer(self.robot.world, np.random.default_rng((self.seed, 0)), *size, boxes=_BOXES) as renderer:
            for count, shot in enumerate(self._shots, 1):
                renderer.move(shot.poses, shot.shown, shot.boxes)
                light = np.random.default_rng((self.seed, 0))
                pictures.append(_compose(renderer.colour(pose, intrinsics, light), shot))
                progress(count)
        return pictures


def write_gif(path: Path, pictures: list[np.ndarray], rate: float = 10.0, colours: int = 192) -> Path:
    """An animated GIF that repeats; all pictures share one palette, so that what stands still does not flicker.

    Args:
        pictures: (H, W, 3) uint8 each.
        rate: pictures per second.

    Raises:
        MissingExtra: no Pillow. OutputError: it cannot be written.
    """
    image = require("PIL.Image", "sim", "write an animation")
    sample = _rare_colours_too(np.stack(pictures[:: max(1, len(pictures) // 8)]))
    palette = image.fromarray(sample).quantize(colours, method=image.Quantize.MEDIANCUT)
    frames = [image.fromarray(p).quantize(palette=palette, dither=image.Dither.NONE) for p in pictures]
    durations = [round(1000 / rate)] * (len(frames) - 1) + [1500]
    with replacing(path) as file:
        frames[0].save(
            file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
        )
    return path


def _rare_colours_too(pictures: np.ndarray) -> np.ndarray:
    """(1, n, 3) uint8 colours of the pictures, each by the square root of how often it occurs.

    Else a large plain table takes the whole palette, and small coloured things turn grey.
    """
    step = 8
    distinct, counts = np.unique(pictures.reshape(-1, 3) // step, axis=0, return_counts=True)
    weights = np.maximum(np.sqrt(counts / 50), 1).astype(int)
    return np.repeat(distinct * step + step // 2, weights, axis=0).astype(np.uint8)[None]


def _draw_shapes(result: Result, base_from_camera: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the reconstructed surfaces and the best grasp from where the spectator stands.

    So it shows sides that the camera does not see. Points are painted as small squares, the farthest first.
    """
    import cv2

    width, height = _INSET[0] * 2, _INSET[1] * 2
    picture = np.full((height, width, 3), (52, 55, 62), np.uint8)
    parts = [(o.points, o.normals, object_colour(o.index)) for o in result.objects if len(o.points)]
    if not parts:
        return picture
    viewer = look_at(_EYE, _TARGET)
    turn = viewer[:3, :3].T @ base_from_camera[:3, :3]
    shift = viewer[:3, :3].T @ (base_from_camera[:3, 3] / MM - viewer[:3, 3])
    points = np.concatenate([p for p, _, _ in parts]).astype(np.float64) @ turn.T + shift
    normals = np.concatenate([n for _, n, _ in parts]).astype(np.float64) @ turn.T
    colours = np.concatenate([np.tile(np.array(c, np.float64), (len(p), 1)) for p, _, c in parts])
    fingers, handle = gripper_wireframe(result.grasps.top(1))
    lines = [line.astype(np.float64) / MM @ turn.T + shift for part in (fingers, handle) for line in part]

    # As large as it fits.
    flat = points[:, :2] / points[:, 2:]
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = 0.8 * float(np.min(np.array([width, height]) / np.maximum(high - low, 1e-6)))
    centre = (low + high) / 2

    def project(where: np.ndarray) -> np.ndarray:
        return (where[:, :2] / where[:, 2:] - centre) * scale + np.array([width, height]) / 2

    facing = np.einsum("ni,ni->n", normals, points) < 0
    order = np.argsort(-points[:, 2])
    order = order[facing[order]]
    pixels = np.rint(project(points[order])).astype(int)
    light = np.array([-0.45, -0.75, -0.5])
    shade = 0.35 + 0.65 * np.clip(normals[order] @ light / np.linalg.norm(light), 0, 1)
    inks = (colours[order] * shade[:, None]).astype(np.uint8)
    # A voxel's edge, so that neighbouring points close up.
    size = max(1, int(np.ceil(scale * result.objects[0].voxel_size / float(np.median(points[:, 2])))))
    for dy in range(-(size // 2), size - size // 2):
        for dx in range(-(size // 2), size - size // 2):
            x, y = pixels[:, 0] + dx, pixels[:, 1] + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            picture[y[inside], x[inside]] = inks[inside]
    for ink, thickness in ((_GROUND, 8), (_GRASP, 4)):
        for line in lines:
            corners = [np.rint(project(line) * 16).astype(np.int32)]
            cv2.polylines(picture, corners, False, ink, thickness, cv2.LINE_AA, shift=4)
    return picture


def _cropped(overlay: np.ndarray, frame: Frame) -> np.ndarray:
    """The part of a frame's overlay where the objects are, in the proportions of an inset."""
    assert frame.mask is not None
    factor = overlay.shape[0] / frame.height
    rows, columns = np.nonzero(frame.label_image() >= 0)
    if len(rows) == 0:
        return overlay
    middle = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2]) * factor
    extent = np.array([np.ptp(columns), np.ptp(rows)]) * factor * 1.35
    ratio = _INSET[0] / _INSET[1]
    height = min(max(extent[1], extent[0] / ratio, 120.0), overlay.shape[0], overlay.shape[1] / ratio)
    half = np.array([height * ratio, height]) / 2
    most = np.array([overlay.shape[1], overlay.shape[0]])
    x, y = np.clip(middle, half, most - half)
    left, right, top, bottom = (round(v) for v in (x - half[0], x + half[0], y - half[1], y + half[1]))
    return overlay[top:bottom, left:right]


def _compose(rendered: np.ndarray, shot: _Shot) -> np.ndarray:
    import cv2

    picture = np.full((HEIGHT, WIDTH, 3), _GROUND, np.uint8)
    picture[: _SCENE[1], : _SCENE[0]] = cv2.resize(rendered, _SCENE, interpolation=cv2.INTER_AREA)
    _inset(picture, shot.sight.overlay, 0, "camera: masks, best grasp of each")
    _inset(picture, shot.sight.shape, 1, "reconstruction, seen from here")
    _write(picture, shot.caption, (10, HEIGHT - 10), 0.5)
    clock = f"{shot.time:.1f} s"
    (width, _), _ = cv2.getTextSize(clock, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    _write(picture, clock, (WIDTH - width - 10, HEIGHT - 10), 0.5)
    return picture


def _inset(picture: np.ndarray, content: np.ndarray, place: int, title: str) -> None:
    import cv2

    width, height = _INSET
    x, y = _SCENE[0] + _GAP, place * (height + _TITLE)
    picture[y : y + height, x:] = cv2.resize(content, (width - _GAP, height), interpolation=cv2.INTER_AREA)
    _write(picture, title, (x + 6, y + height + 13), 0.4)


def _write(picture: np.ndarray, text: str, at: tuple[int, int], scale: float) -> None:
    import cv2

    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
