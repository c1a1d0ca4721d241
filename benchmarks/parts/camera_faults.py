"""A software camera that misbehaves, and what exactly it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.camera.software import Shot, Silence

WIDTH, HEIGHT = 640, 480
# Depth pictures of this size come unasked for.
WRONG_SIZE = (320, 240)
PERIOD_MS = 1000 / 30
# How often each fault happens, per frame.
RATES = {
    "duplicated": 0.01,
    "reordered": 0.01,
    "wrong size": 0.0025,
    "depth zero": 0.0025,
    "colour zero": 0.0025,
    "depth noise": 0.0025,
    "colour noise": 0.0025,
    "no colour": 0.0025,
    "no depth": 0.0025,
    "missing": 0.005,
    "stall": 0.001,
}
# Sound frames after a fault, so that the next one is a fault of its own.
APART = 3
# Longer than a stall takes to be noticed, s.
STALL = 0.9


@dataclass
class FaultyFeed:
    """Shots of a few simulated pictures, every one stamped with its number, with faults in between.

    Attributes:
        count: numbers that are used up.
        injected: what a camera that counts right has counted at the end; `frames` are the sound ones.
    """

    count: int
    seed: int = 0
    rates: dict[str, float] = field(default_factory=lambda: dict(RATES))
    injected: CameraCounters = field(default_factory=CameraCounters)

    def __post_init__(self) -> None:
        camera = SimulatedCamera(self.seed, 6, WIDTH, HEIGHT, depth_noise=True)
        frames = [camera.render(30 * i)[0] for i in range(4)]
        self.intrinsics = frames[0].intrinsics
        self._pictures = [(np.rint(f.depth).astype(np.uint16), f.rgb) for f in frames]
        rng = np.random.default_rng(self.seed)
        self._noise = rng.integers(0, 2**16, (HEIGHT, WIDTH), np.uint16)
        self._speckle = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        self._small = np.full((WRONG_SIZE[1], WRONG_SIZE[0]), 700, np.uint16)

    def __iter__(self) -> Iterator[Shot | Silence]:
        rng = np.random.default_rng((self.seed, 1))
        names, shares = list(self.rates), np.cumsum(list(self.rates.values()))
        number, quiet = 0, APART  # the first frames are sound: a camera that shows nothing at all is another matter
        while number < self.count - 1:
            number += 1
            drawn = int(np.searchsorted(shares, rng.random(), side="right"))
            quiet -= 1
            if quiet >= 0 or drawn == len(names) or number >= self.count - APART:
                self.injected.frames += 1
                yield self._shot(number)
                continue
            quiet = APART
            yield from self._fault(names[drawn], number)
            number += names[drawn] == "reordered"  # which used two numbers up

    def _fault(self, name: str, number: int) -> Iterator[Shot | Silence]:
        injected = self.injected
        sound = self._shot(number)
        if name == "duplicated":
            injected.frames += 1
            injected.duplicated += 1
            yield from (sound, sound)
        elif name == "reordered":
            injected.frames += 1
            injected.reordered += 1
            yield from (self._shot(number + 1), sound)
        elif name in ("no colour", "no depth"):
            injected.unpaired += 1
            injected.lost += name == "no depth"
            lone = name == "no colour"
            yield Shot(number, sound.time, sound.depth if lone else None, None if lone else sound.colour)
        elif name == "missing":
            injected.lost += 1
        elif name == "stall":
            injected.frames += 1
            injected.stalls += 1
            injected.restarts += 1
            yield Silence(STALL)
            yield sound
        else:
            injected.corrupted += 1
            depth = {"wrong size": self._small, "depth zero": np.zeros_like(self._noise), "depth noise": self._noise}
            colour = {"colour zero": np.zeros_like(self._speckle), "colour noise": self._speckle}
            yield Shot(number, sound.time, depth.get(name, sound.depth), colour.get(name, sound.colour))

    def _shot(self, number: int) -> Shot:
        depth, colour = (picture.copy() for picture in self._pictures[number % len(self._pictures)])
        colour[0, :8, 0] = stamp(number)
        return Shot(number, number * PERIOD_MS, depth, colour)


def stamp(number: int) -> np.ndarray:
    """(8,) uint8: a number written into pixels."""
    return np.frombuffer(np.uint64(number).tobytes(), np.uint8)
