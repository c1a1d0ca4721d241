"""Exact augmentation: the eight symmetries of the image plane and a change of scale; colours, depth noise, masks.

A mirrored, transposed or scaled view is the view of a mirrored, transposed or scaled world, pixel by pixel:
flipping the image in x is the world's reflection x -> -x with the principal point reflected, transposing it
swaps x and y, scaling depth by s scales the world by s about the camera. `Augmented.warp` is that 3x3 matrix;
targets take it too. A parallel gripper is its own mirror image, and so are its labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .sample import View


@dataclass(frozen=True)
class Augmentation:
    """How views are changed; probabilities lie in 0..1. All zero is no change."""

    flip_x: float = 0.5
    """Probability of left-right reflection."""
    flip_y: float = 0.15
    """Probability of up-down reflection; low, because a camera is seldom upside down and gravity is a hint."""
    transpose: float = 0.15
    """Probability of swapping the image's axes: with the flips, a camera rolled by 90 degrees."""
    scale: float = 0.04
    """Largest relative change of the world's size about the camera."""
    colour: float = 0.8
    """Probability of a change of brightness, contrast, saturation, white balance and gamma."""
    depth_noise: float = 0.5
    """Probability of additional depth noise."""
    drop_object: float = 0.15
    """Probability with which each object is removed from the mask; at least one remains."""

    @classmethod
    def none(cls) -> Augmentation:
        """No change at all."""
        return cls(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Augmented:
    """A changed view; arrays as in `View`."""

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    intrinsics: np.ndarray
    warp: np.ndarray
    """(3, 3) float64: camera coordinates of the changed view <- those of the original one."""


def augment(view: View, settings: Augmentation, rng: np.random.Generator) -> Augmented:
    """A random change of a view; the same generator state gives the same change."""
    draws = rng.random(5)
    scale = 1 + settings.scale * rng.uniform(-1, 1)
    flips = draws[:3] < (settings.flip_x, settings.flip_y, settings.transpose)
    result = dihedral(view, *(bool(f) for f in flips))
    rgb, depth, mask = result.rgb, result.depth, result.mask
    if settings.scale:
        depth = depth * np.float32(scale)
    if draws[3] < settings.colour:
        rgb = jitter_colour(rgb, rng)
    if draws[4] < settings.depth_noise:
        depth = disturb_depth(depth, float(result.intrinsics[0, 0]), rng)
    if settings.drop_object:
        mask = drop_objects(mask, settings.drop_object, rng)
    warp = result.warp * scale if settings.scale else result.warp
    return Augmented(rgb, depth, mask, result.intrinsics, warp)


def dihedral(view: View, flip_x: bool, flip_y: bool, transpose: bool) -> Augmented:
    """Reflections of the image in x and y, then its transposition."""
    images = [view.rgb, view.depth, view.mask]
    k = np.asarray(view.intrinsics, np.float32).copy()
    height, width = view.depth.shape
    warp = np.eye(3)
    if flip_x:
        images = [i[:, ::-1] for i in images]
        k[0, 2] = width - 1 - k[0, 2]
        warp = np.diag([-1.0, 1, 1]) @ warp
    if flip_y:
        images = [i[::-1] for i in images]
        k[1, 2] = height - 1 - k[1, 2]
        warp = np.diag([1.0, -1, 1]) @ warp
    if transpose:
        images = [i.swapaxes(0, 1) for i in images]
        k = k[[1, 0, 2]][:, [1, 0, 2]]
        warp = warp[[1, 0, 2]]
    rgb, depth, mask = (np.ascontiguousarray(i) for i in images)
    return Augmented(rgb, depth, mask, k, warp)


def jitter_colour(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other light and another camera: gains per channel, contrast, saturation, gamma; (H, W, 3) uint8.

    One picture in ten loses its colours.
    """
    gains = rng.uniform(0.65, 1.35) * rng.uniform(0.88, 1.12, 3)
    contrast, gamma = rng.uniform(0.75, 1.25), np.exp(rng.uniform(-0.25, 0.25))
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.5, 1.4)
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = np.clip(levels**gamma * gains, 0, 1)
    table = np.clip((table - 0.5) * contrast + 0.5, 0, 1).astype(np.float32)
    # (3, 3) mixing towards the luminance (ITU-R BT.601).
    luminance = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    mixing = saturation * np.eye(3) + (1 - saturation) * luminance
    changed = cv2.LUT(rgb, np.rint(table * 255).astype(np.uint8)[None])
    return cv2.transform(changed, mixing)


def disturb_depth(depth: np.ndarray, focal: float, rng: np.random.Generator) -> np.ndarray:
    """More stereo noise: a smooth disparity error, so depth errors grow with z^2, and speckles of lost depth.

    Args:
        depth: (H, W) float32 mm, 0 is invalid.
        focal: pixels; with a baseline of 50 mm it relates disparity to depth.
    """
    height, width = depth.shape
    amplitude = rng.uniform(0, 0.08)  # pixels of disparity
    cell = int(rng.integers(3, 9))
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    noisy = depth + depth * depth * (field * np.float32(amplitude / (focal * 50.0)))
    lost = cv2.resize(
        (rng.random(coarse.shape) < rng.uniform(0, 0.03)).astype(np.uint8),
        (width, height),
        interpolation=cv2.INTER_NEAREST,
    )
    return np.where((depth > 0) & (lost == 0), noisy, 0).astype(np.float32)


def drop_objects(mask: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """The mask without randomly chosen objects, whose pixels become background (0); at least one object stays."""
    ids = np.flatnonzero(np.bincount(mask.ravel(), minlength=1))
    ids = ids[ids > 0]
    dropped = rng.random(len(ids)) < probability
    if len(ids) and dropped.all():
        dropped[rng.integers(len(ids))] = False
    return without_objects(mask, ids[dropped])


def without_objects(mask: np.ndarray, ids: np.ndarray | list[int]) -> np.ndarray:
    """The mask with these values set to background."""
    if len(ids) == 0:
        return mask
    table = np.arange(int(mask.max()) + 1, dtype=mask.dtype)
    table[[i for i in ids if i < len(table)]] = 0
    return table[mask]
