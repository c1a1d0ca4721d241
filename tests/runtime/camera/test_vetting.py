"""What becomes of captures: used once, in order, sound; everything else is counted under its name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.capture import Capture
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.camera.vetting import Vetting, corruption

from .conftest import COLOUR, DEPTH, SHAPE, capture


def vetted(captures: list[Capture]) -> tuple[list[int], CameraCounters]:
    counters = CameraCounters()
    vetting = Vetting(SHAPE, SHAPE, counters)
    used = [taken.depth.stamp.number for c in captures if (taken := vetting.accept(c)) is not None and taken.depth]
    vetting.flush()
    return used, counters


def halves(number: int) -> list[Capture]:
    return [capture(number, colour=None), capture(number, depth=None)]


def test_in_order() -> None:
    assert vetted([capture(n) for n in range(5, 9)]) == ([5, 6, 7, 8], CameraCounters())


def test_gaps_are_lost() -> None:
    used, counters = vetted([capture(n) for n in (1, 2, 5, 9)])
    assert used == [1, 2, 5, 9] and counters == CameraCounters(lost=5)


def test_duplicates() -> None:
    used, counters = vetted([capture(1), capture(2), capture(2), *halves(1), capture(3), *halves(3)])
    assert used == [1, 2, 3] and counters == CameraCounters(duplicated=3)


def test_latecomers_are_not_lost() -> None:
    used, counters = vetted([capture(1), capture(3), *halves(2), capture(6), capture(4), capture(7)])
    assert used == [1, 3, 6, 7] and counters == CameraCounters(reordered=2, lost=1)


def test_a_latecomer_twice() -> None:
    used, counters = vetted([capture(1), capture(3), capture(2), capture(2), capture(4)])
    assert used == [1, 3, 4] and counters == CameraCounters(reordered=1, duplicated=1)


def test_halves_that_belong_together_are_a_pair() -> None:
    used, counters = vetted([*halves(1), capture(2), *reversed(halves(3))])
    assert used == [1, 2, 3] and counters == CameraCounters()


def test_halves_that_stay_alone() -> None:
    used, counters = vetted(
        [capture(1), capture(2, colour=None), capture(3), capture(4, depth=None), capture(5, colour=None)]
    )
    assert used == [1, 3] and counters == CameraCounters(unpaired=3, lost=1)  # the depth of 4 never came


def test_corrupted_ones_did_arrive() -> None:
    zero, small = np.zeros_like(DEPTH), np.full((8, 8), 500, np.uint16)
    bad = [capture(2, zero), capture(3, small), capture(4, colour=COLOUR * 0)]
    used, counters = vetted([capture(1), *bad, capture(5)])
    assert used == [1, 5] and counters == CameraCounters(corrupted=3)


def test_a_counter_that_starts_again() -> None:
    used, counters = vetted([capture(n) for n in (5000, 5001, 1, 2)])
    assert used == [5000, 5001, 1, 2] and counters == CameraCounters()


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60))
def test_every_capture_is_counted_once(numbers: list[int]) -> None:
    used, counters = vetted([capture(n) for n in numbers])
    assert used == sorted(set(used))
    assert len(used) + counters.duplicated + counters.reordered == len(numbers)
    assert len(used) + counters.reordered == len(set(numbers))
    if numbers:
        first, high = numbers[0], max(numbers)
        assert counters.lost == len(set(range(first, high + 1)) - set(numbers))


def test_memory_is_bounded() -> None:
    counters = CameraCounters()
    vetting = Vetting(SHAPE, SHAPE, counters)
    for n in range(1, 6001, 3):
        vetting.accept(capture(n))
    assert len(vetting._seen) <= 512 and len(vetting._missing) <= 1024 and counters.lost == 2 * 1999


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_told_from_pictures(seed: int) -> None:
    frame = SimulatedCamera(seed, 6, 320, 240, depth_noise=True).read()
    depth, shape = frame.depth.astype(np.uint16), (240, 320)
    assert corruption(depth, frame.rgb, shape, shape) == ""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 2**16, shape, np.uint16)
    speckle = rng.integers(0, 256, (*shape, 3), np.uint8)
    assert "depth is noise" in corruption(noise, frame.rgb, shape, shape)
    assert "colour is noise" in corruption(depth, speckle, shape, shape)
    sparse = np.where(rng.random(shape) < 0.7, 0, depth)  # a sensor that sees little
    assert corruption(sparse, frame.rgb, shape, shape) == ""


@pytest.mark.parametrize(
    ("depth", "colour", "said"),
    [
        (DEPTH[:8], COLOUR, "depth is 16x8, expected 16x16"),
        (DEPTH, COLOUR[:, :8], "colour is 8x16, expected 16x16"),
        (DEPTH * 0, COLOUR, "depth is zero"),
        (DEPTH, COLOUR * 0, "colour is zero"),
    ],
)
def test_what_is_wrong_is_said(depth: np.ndarray, colour: np.ndarray, said: str) -> None:
    assert said in corruption(depth, colour, SHAPE, SHAPE)
