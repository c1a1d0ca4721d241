"""A picture of a result: instance tints and outlines, object numbers, the best grasps as wireframes."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.result import Grasps, Result

# sRGB, told apart also by readers with red-green deficiency when neighbours in the list meet.
PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 98, 146),
        (149, 117, 205),
        (213, 94, 0),
        (0, 172, 193),
        (192, 202, 51),
        (121, 134, 203),
        (255, 138, 101),
    ],
    np.uint8,
)
# Wireframe of the gripper in its own frame, metres: x approach, y closing (spec, "Grasp refinement").
_FINGER_BACK_M, _HANDLE_M = -0.02, -0.06
_MIN_WIDTH = 960


def object_colour(index: int) -> tuple[int, int, int]:
    """sRGB of the object at that position of the frame."""
    red, green, blue = PALETTE[index % len(PALETTE)]
    return int(red), int(green), int(blue)


def gripper_wireframe(grasps: Grasps) -> tuple[np.ndarray, np.ndarray]:
    """Lines of grippers in the grasps' frame, m.

    Returns:
        (G, 4, 3): finger tip, finger back, finger back, finger tip; (G, 2, 3): middle of the palm, end of
        the handle.
    """
    half, tip = grasps.width / 2, grasps.depth
    zero, back = np.zeros_like(half), np.full_like(half, _FINGER_BACK_M)
    fingers = np.stack(
        [tip, -half, zero, back, -half, zero, back, half, zero, tip, half, zero], axis=1
    ).reshape(-1, 4, 3)
    handle = np.tile(np.array([[_FINGER_BACK_M, 0, 0], [_HANDLE_M, 0, 0]], np.float32), (len(grasps), 1, 1))
    turn, shift = grasps.rotation.transpose(0, 2, 1), grasps.translation[:, None]
    return fingers @ turn + shift, handle @ turn + shift


def draw_masks(frame: Frame) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the picture with instance tints and outlines at its own size, in a few milliseconds."""
    import cv2

    if frame.mask is None:
        return frame.rgb
    labels = frame.label_image()
    tinted = cv2.addWeighted(frame.rgb, 0.62, PALETTE[labels % len(PALETTE)], 0.38, 0)
    picture = np.where((labels < 0)[:, :, None], frame.rgb, tinted)
    for index in range(len(frame.object_ids())):
        outline, _ = cv2.findContours((labels == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, object_colour(index), 2, cv2.LINE_AA)
    return picture


def draw_overlay(frame: Frame, result: Result, per_object: int = 3) -> np.ndarray:
    """(h, w, 3) uint8 RGB picture; small frames are enlarged by a whole factor to at least 960 pixels width.

    Grasps with any part behind the camera cannot be projected and are left out of the count in the corner.

    Args:
        per_object: how many of the best grasps of each object are drawn.
    """
    import cv2

    factor = max(1, -(-_MIN_WIDTH // frame.width))
    size = (frame.width * factor, frame.height * factor)
    picture = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_CUBIC)
    if frame.mask is not None:
        picture = _tinted(picture, frame, size)
    chosen = Grasps.concatenate([item.grasps.top(per_object) for item in result.objects])
    drawn, span = _draw_grasps(picture, chosen, frame.intrinsics, factor)
    if frame.mask is not None:
        _draw_numbers(picture, frame, result, factor)
    caption = f"{len(result.objects)} objects   {drawn} of {len(result.grasps)} grasps"
    if result.skipped:
        caption += f"   {len(result.skipped)} skipped"
    if "total" in result.timings:
        caption += f"   {result.timings['total']:.0f} ms"
    _label(picture, caption, (12, size[1] - 14), 0.55, (255, 255, 255), (24, 24, 28))
    if drawn:
        _draw_scale(picture, *span)
    return picture


def _tinted(picture: np.ndarray, frame: Frame, size: tuple[int, int]) -> np.ndarray:
    import cv2

    labels = cv2.resize(frame.label_image().astype(np.int16), size, interpolation=cv2.INTER_NEAREST)
    tint = PALETTE[labels % len(PALETTE)]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None]
    dimmed = (0.55 * picture + 0.20 * grey).astype(np.uint8)
    blended = cv2.addWeighted(picture, 0.72, tint, 0.28, 0)
    picture = np.where((labels < 0)[:, :, None], dimmed, blended)
    for index in range(len(frame.object_ids())):
        # Smoothing before the outline takes the stairs off an enlarged mask.
        soft = cv2.GaussianBlur((labels == index).astype(np.float32), (0, 0), size[0] / 900)
        outline, _ = cv2.findContours((soft > 0.5).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, object_colour(index), 2, cv2.LINE_AA)
    return picture


def _draw_grasps(
    picture: np.ndarray, grasps: Grasps, intrinsics: np.ndarray, factor: int
) -> tuple[int, tuple[float, float]]:
    """Draws worst first, so that the best lies on top; returns how many, and the range of their scores."""
    import cv2

    if len(grasps) == 0:
        return 0, (0.0, 0.0)
    grasps = grasps.top(len(grasps))[::-1]
    fingers, handles = gripper_wireframe(grasps)
    low, high = float(grasps.score.min()), float(grasps.score.max())
    unit = (grasps.score - low) / max(high - low, 1e-6)
    colours = score_colours(unit)
    drawn = 0
    for lines, colour in zip(zip(fingers, handles, strict=True), colours, strict=True):
        if min(part[:, 2].min() for part in lines) < 0.01:
            continue
        drawn += 1
        pixels = [_project(part, intrinsics, factor) for part in lines]
        for thickness, ink in ((6, (16, 16, 18)), (3, tuple(int(c) for c in colour))):
            cv2.polylines(picture, pixels, False, ink, thickness, cv2.LINE_AA, shift=4)
        for tip in (pixels[0][0], pixels[0][-1]):
            cv2.circle(
                picture,
                tuple(int(c) for c in tip),
                4 * 16,
                tuple(int(c) for c in colour),
                -1,
                cv2.LINE_AA,
                shift=4,
            )
    return drawn, (low, high)


def _project(points: np.ndarray, intrinsics: np.ndarray, factor: int) -> np.ndarray:
    """(n, 2) int32 pixels in 1/16 of the enlarged picture; integer coordinates are pixel centres."""
    pixels = points @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    enlarged = (pixels + 0.5) * factor - 0.5
    return np.rint(np.clip(enlarged, -1e5, 1e5) * 16).astype(np.int32)


def score_colours(unit: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 RGB from 0 (red) over yellow to 1 (green)."""
    stops = np.array([(232, 62, 60), (250, 204, 60), (70, 214, 100)], np.float32)
    return np.stack(
        [np.interp(unit, (0, 0.5, 1), stops[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.uint8)


def _draw_numbers(picture: np.ndarray, frame: Frame, result: Result, factor: int) -> None:
    labels = frame.label_image()
    skipped = {item.object_id for item in result.skipped}
    for index, object_id in enumerate(frame.object_ids()):
        rows, columns = np.nonzero(labels == index)
        # Above the object, where it hides least.
        at = (int((columns.mean() + 0.5) * factor), max(int(rows.min() * factor) - 8, 18))
        text = f"{object_id}" + (" skipped" if object_id in skipped else "")
        _label(picture, text, at, 0.55, (16, 16, 18), object_colour(index), centred=True)


def _draw_scale(picture: np.ndarray, low: float, high: float) -> None:
    height, width = picture.shape[:2]
    bar = score_colours(np.linspace(0, 1, 140))
    top, left = height - 28, width - 140 - 62
    _label(picture, f"{low:.2f}", (left - 8, height - 14), 0.45, (255, 255, 255), (24, 24, 28), right=True)
    picture[top : top + 12, left : left + 140] = bar
    _label(picture, f"{high:.2f}", (left + 148, height - 14), 0.45, (255, 255, 255), (24, 24, 28))


def _label(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    scale: float,
    ink: tuple[int, int, int],
    ground: tuple[int, int, int],
    *,
    centred: bool = False,
    right: bool = False,
) -> None:
    """Text on a filled box; `at` is the left (or middle, or right) end of its base line."""
    import cv2

    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = at[0] - (width // 2 if centred else width if right else 0)
    x = min(max(x, 5), max(picture.shape[1] - width - 5, 5))
    y = at[1]
    cv2.rectangle(picture, (x - 5, y - height - 5), (x + width + 4, y + 5), ground, -1, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
