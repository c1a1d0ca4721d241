"""Views of random worlds for training and testing, deterministic by split and seed like the worlds themselves."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.export.training.sample import View
from zerograsp_edge.runtime.simulation.render import WorldRenderer
from zerograsp_edge.runtime.simulation.scenes import (
    HEIGHT,
    LABELS,
    VIEWS,
    WIDTH,
    SceneError,
    Split,
    draw_camera,
    draw_intrinsics,
    expose,
    generator,
)
from zerograsp_edge.runtime.simulation.sensor import MaskNoise, SensorNoise, measure_depth, segment
from zerograsp_edge.runtime.simulation.world import World

_VIEW_TRIES = 40


def make_views(world: World, seed: int, count: int, split: Split = "train", attempt: int = 0) -> list[View]:
    """Noisy pictures of a world from random camera poses; each sees at least one object.

    The camera is 0.35 to 1.0 m from the middle of the objects, 25 to 85 degrees above it (before a shelf: in front
    of it), looks roughly there, rolled at random.

    Args:
        seed, split, attempt: as for the world.

    Raises:
        SceneError: no camera pose sees an object.
    """
    rng = generator(seed, split, attempt, VIEWS)
    views: list[View] = []
    with WorldRenderer(world, rng, WIDTH, HEIGHT) as renderer:
        for _ in range(count):
            for _ in range(_VIEW_TRIES):
                view = _try_view(renderer, rng)
                if view is not None:
                    views.append(view)
                    break
            else:
                raise SceneError(
                    f"{_VIEW_TRIES} camera poses see no object of {split} seed {seed}; leave this seed out"
                )
    return views


def label_generator(seed: int, split: Split, attempt: int = 0) -> np.random.Generator:
    """Random numbers for a scene's surface samples and grasp labels, apart from those of world and views."""
    return generator(seed, split, attempt, LABELS)


def _try_view(renderer: WorldRenderer, rng: np.random.Generator) -> View | None:
    camera = draw_camera(rng, renderer.world)
    if camera is None:
        return None
    intrinsics = draw_intrinsics(rng)
    picture = renderer.render(camera, intrinsics, rng)
    if not picture.mask.any():
        return None
    depth = measure_depth(picture.depth, picture.rgb, intrinsics, SensorNoise.draw(rng), rng)
    mask = segment(picture.mask, depth, MaskNoise.draw(rng), rng)
    if not mask.any():
        return None
    return View(expose(picture.rgb, rng), depth, mask, intrinsics, camera, picture.visible_fraction)
