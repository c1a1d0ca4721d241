"""Conversions between float32 and float16: every half, and floats where rounding is delicate, against NumPy's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from zerograsp_edge.kernels.half import round_to_half, widen_half
from zerograsp_edge.kernels.native import core

EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.fixture(params=["baseline", "avx2"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if not core.set_convolution_isa(request.param):
        pytest.skip(f"this machine or build has no {request.param}")
    yield request.param
    core.set_convolution_isa(None)


def delicate_floats() -> np.ndarray:
    """Every half, the middle between it and the next, and the floats just beside both; NaN, infinity, denormals."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = EVERY_HALF[np.isfinite(EVERY_HALF)].astype(np.float32)
        middle = (halves + np.nextafter(EVERY_HALF[np.isfinite(EVERY_HALF)], np.float16(np.inf))) / 2
        middle = middle[np.isfinite(middle)].astype(np.float32)
    around = [np.nextafter(x, np.float32(s)) for x in (halves, middle) for s in (-np.inf, np.inf)]
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 1 << 32, 200_003, dtype=np.uint32).view(np.float32)
    edges = np.float32([65504, 65519.996, 65520, 65536, 3e38, 2**-24, 2**-25, 1e-45, np.inf, np.nan])
    return np.concatenate([halves, middle, *around, anything, edges, -edges])


@pytest.mark.usefixtures("isa")
def test_every_half_widens_exactly() -> None:
    wide = widen_half(EVERY_HALF, threads=1)
    finite = ~np.isnan(EVERY_HALF)
    expected = EVERY_HALF.astype(np.float32)
    np.testing.assert_array_equal(wide[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert np.isnan(wide[~finite]).all()


@pytest.mark.usefixtures("isa")
def test_rounding_is_numpys() -> None:
    x = delicate_floats()
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    half = round_to_half(x, threads=2)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(half[number].view(np.uint16), expected[number].view(np.uint16))
    assert np.isnan(half[~number]).all() and not number.all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 32767, 32769])
def test_any_length(count: int) -> None:
    x = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    half = round_to_half(x, threads=3)
    np.testing.assert_array_equal(half, x.astype(np.float16))
    np.testing.assert_array_equal(widen_half(half, threads=3), half.astype(np.float32))


def test_shape_is_kept_and_types_are_checked() -> None:
    assert round_to_half(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="x: expected a C-contiguous float32 array"):
        round_to_half(np.zeros(3, np.float16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x: expected a C-contiguous float16 array"):
        widen_half(np.zeros((4, 4), np.float16)[:, ::2])
    with pytest.raises(ValueError, match="threads"):
        widen_half(np.zeros(3, np.float16), threads=-1)
