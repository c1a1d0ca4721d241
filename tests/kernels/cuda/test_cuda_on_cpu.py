"""The stand-in for CUDA on the CPU: it runs correct kernels, and finds planted faults."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cuda_library import HERE, SANITIZED, SEEDS, build

X = (np.arange(384) * 7 % 31).astype(np.int32)


@pytest.fixture(scope="module", params=[(), ("-DCUDA_ON_CPU_UCONTEXT",)], ids=["", "ucontext"])
def shim(request: pytest.FixtureRequest) -> ctypes.CDLL:
    """With this machine's way to switch stacks, and with the portable one."""
    library = ctypes.CDLL(str(build({"shim_kernels": (HERE / "shim_kernels.cpp").read_bytes()}, request.param)))
    library.cuda_on_cpu_fault.restype = ctypes.c_char_p
    return library


def run(shim: ctypes.CDLL, name: str, seed: int = 0) -> tuple[int, np.ndarray]:
    y = np.full(384, -1, np.int32)
    shim.cuda_on_cpu_seed(ctypes.c_uint(seed))
    return shim.run_shim_kernel(name.encode(), X.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p)), y


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_order_threads(shim: ctypes.CDLL, seed: int) -> None:
    code, y = run(shim, "reverse", seed)
    assert code == 0
    np.testing.assert_array_equal(y, X.reshape(3, 128)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_barrier_shows(shim: ctypes.CDLL, seed: int) -> None:
    code, y = run(shim, "missing barrier", seed)
    assert code == 0
    assert (y != X.reshape(3, 128)[:, ::-1].reshape(-1)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_warps(shim: ctypes.CDLL, seed: int) -> None:
    code, y = run(shim, "warps", seed)
    assert code == 0
    for warp in (slice(0, 32), slice(32, 64)):
        assert (y[warp] == X[warp].sum() * 64 + (X[warp] % 2).sum()).all()
    code, y = run(shim, "halves", seed)
    assert code == 0
    expected = [[base + 3] * 16 + [min(base + i + 1, base + 31) for i in range(16, 32)] for base in (0, 32)]
    np.testing.assert_array_equal(y[:64], np.reshape(expected, -1))


def test_a_warp_that_is_left_behind_shows(shim: ctypes.CDLL) -> None:
    """Ascending, all warps keep one pace, and a barrier that is missing between them may not be seen."""
    expected = np.tile(np.append(np.zeros(32), X[np.arange(32) ^ 1]), 6)
    results = []
    for seed in SEEDS:
        code, y = run(shim, "one pace", seed)
        assert code == 0
        results.append(np.array_equal(y, expected))
    assert results[0] and not all(results[1:])


def test_shared_memory_is_poisoned_for_every_block(shim: ctypes.CDLL) -> None:
    code, y = run(shim, "poison")
    assert code == 0
    assert set(y[:4]) == {0x7E7E7E7E, 0xFEFEFEFE - 2**32}


def test_async_copies_arrive_when_waited_for(shim: ctypes.CDLL) -> None:
    expected = np.concatenate([X[:124], np.zeros(4, int)])[::-1]
    for seed in SEEDS:
        code, y = run(shim, "async", seed)
        assert code == 0
        np.testing.assert_array_equal(y[:128], expected)
        code, y = run(shim, "async without wait", seed)
        assert code == 0
        assert not (y[:128] == expected).any()


FAULTS = {
    "mask without self": "mask 0x0000ffff does not name thread 16",
    "reads from outside": "reads from lane 20, which does not take part",
    "named but absent": "thread 7 has exited, but the mask names it",
    "exits before barrier": "__syncthreads: thread 0 waits at __syncthreads, line .* but thread 3 has exited",
    "two barriers": "__syncthreads: thread 0 waits .* but thread 32 waits",
    "barrier in half a warp": "thread 0 waits at __syncthreads, line .* but the mask names it",
    "misaligned copy": "cp.async .* not divisible by 16",
    "too much shared": "shared memory: 50000 bytes, a block has 49152",
    "too many threads": "impossible grid or block size",
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(shim: ctypes.CDLL, name: str) -> None:
    code, _ = run(shim, name)
    assert code != 0
    text = shim.cuda_on_cpu_fault().decode()
    assert pytest.raises(AssertionError, match=FAULTS[name]).matches(AssertionError(text)), text
    assert run(shim, "reverse")[0] == 0  # the next launch is unaffected


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer has its own, larger stacks")
def test_stack_overflow_is_found(shim: ctypes.CDLL) -> None:
    code, _ = run(shim, "deep stack")
    assert code != 0
    assert b"stack overflow" in shim.cuda_on_cpu_fault()


def test_half_conversions_are_those_of_numpy(shim: ctypes.CDLL) -> None:
    halves = np.arange(65536, dtype=np.uint16)
    finite = halves.view(np.float16)[np.isfinite(halves.view(np.float16))].astype(np.float32)
    single = np.concatenate([
        np.random.default_rng(0).integers(0, 2**32, 200000, dtype=np.uint32).view(np.float32),
        halves.view(np.float16).astype(np.float32),
        np.nextafter(finite, np.float32(np.inf)),
        np.linspace(-70000, 70000, 50001, dtype=np.float32),
        np.linspace(-1e-4, 1e-4, 50001, dtype=np.float32),
    ])  # fmt: skip
    to_single, to_half = np.empty(65536, np.float32), np.empty(len(single), np.uint16)
    pointer = ctypes.c_void_p
    shim.convert_halves(
        pointer(halves.ctypes.data), pointer(to_single.ctypes.data), 65536,
        pointer(single.ctypes.data), pointer(to_half.ctypes.data), len(single),
    )  # fmt: skip
    np.testing.assert_array_equal(to_single, halves.view(np.float16).astype(np.float32))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(to_half.view(np.float16), single.astype(np.float16))
