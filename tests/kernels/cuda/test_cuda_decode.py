"""Surface points, grasps and their ranking: the CUDA kernels, run on the CPU, against what the CPU pipeline does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from cuda_library import SANITIZED, SEEDS, CudaError, Library, count_of, library, planted
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.kernels import Fit
from zerograsp_edge.runtime.grasp.decode import OctreeCube, decode
from zerograsp_edge.runtime.result import ObjectReconstruction

ROW_OUT_OF_RANGE, OBJECT_OUT_OF_RANGE, SIGNAL_NOT_FINITE, SCORE_NOT_A_NUMBER = 2, 8, 1024, 2048  # ZgStatus
UNTOUCHED = -77
SEED = st.integers(0, 2**32 - 1)
ORDER = st.sampled_from(SEEDS)
SPARE = st.sampled_from([None, 0, 130])
Arrays = dict[str, np.ndarray]


@dataclass
class Surface:
    arrays: Arrays  # per point
    first: np.ndarray
    status: int


SHAPES = {
    "points": 3, "normals": 3, "sdf": 1, "nodes": 3, "rotation": 9, "translation": 3, "width": 1, "grasp_depth": 1,
    "score": 1, "object": 1,
}  # fmt: skip


def run(
    cuda: Library, signal: np.ndarray, first_channel: int, split_rows: np.ndarray, keys: np.ndarray, objects: int,
    cube: OctreeCube, spare: int | None = None,
) -> Surface:  # fmt: skip
    n, more = len(split_rows), spare or 0
    arrays = {
        name: np.full((n + more, size), UNTOUCHED, np.int32 if name in ("nodes", "object") else np.float32)
        for name, size in SHAPES.items()
    }
    first, status = np.full(objects + 1, UNTOUCHED, np.int32), np.zeros(1, np.int32)
    cuda.decode(
        int(signal.dtype == np.float16), signal, *signal.shape, first_channel,
        np.append(split_rows, np.full(more, 10**6, np.int32)), keys, n + more,
        None if spare is None else count_of(n), objects, cube.max_lod, cube.edge / 2,
        np.array([cube.z_min], np.float32), *arrays.values(), first, status,
    )  # fmt: skip
    assert all((a[n:] == UNTOUCHED).all() for a in arrays.values())
    return Surface({name: a[:n] for name, a in arrays.items()}, first, int(status[0]))


def compare(got: Surface, objects: tuple[ObjectReconstruction, ...], signal: np.ndarray) -> None:
    """signal (n, 14): of the points, in their order."""
    a = got.arrays
    bounds = np.cumsum([0, *(len(o.points) for o in objects)])
    np.testing.assert_array_equal(got.first, bounds)
    assert (a["object"].ravel() == np.repeat(np.arange(len(objects)), np.diff(bounds))).all()

    def every(name: str) -> np.ndarray:
        return np.concatenate([getattr(o, name) for o in objects])

    def of_grasps(name: str) -> np.ndarray:
        return np.concatenate([getattr(o.grasps, name) for o in objects])

    np.testing.assert_array_equal(a["nodes"], every("nodes"))
    np.testing.assert_array_equal(a["sdf"].ravel(), every("sdf"))
    np.testing.assert_allclose(a["normals"], every("normals"), rtol=0, atol=3e-7)
    sdf = np.abs(signal[:, 3:4])
    assert (np.abs(a["points"] - every("points")) <= 3e-7 * sdf + 2.5e-4).all()  # centres reach 2000 mm
    np.testing.assert_allclose(a["translation"], a["points"] / np.float32(1000), rtol=1e-6)
    for name, theirs in (("width", "width"), ("grasp_depth", "depth"), ("score", "score")):
        np.testing.assert_array_equal(a[name].ravel(), of_grasps(theirs))
    rotation, expected = a["rotation"].reshape(-1, 3, 3), of_grasps("rotation")
    # Gram-Schmidt magnifies float32 rounding by 1 / sin of the angle between approach and closing direction.
    lengths = np.linalg.norm(signal[:, 6:9], axis=1) * np.linalg.norm(signal[:, 9:12], axis=1)
    sine = np.linalg.norm(np.cross(signal[:, 6:9].astype(float), signal[:, 9:12].astype(float)), axis=1)
    sine = np.where(sine > 1e-3 * lengths, sine / np.maximum(lengths, 1e-30), 1)
    assert (np.abs(rotation - expected).max((1, 2)) * sine < 1e-6).all()


@settings(max_examples=5 if SANITIZED else 30, deadline=None)
@given(SEED, ORDER, st.sampled_from([0, 1, 127, 128, 129, 400]), st.integers(1, 5), st.booleans(), SPARE)
def test_decoding(seed: int, order: int, n: int, objects: int, half: bool, spare: int | None) -> None:
    """Some rows of the signal are no split nodes, some objects have no points, some directions are degenerate."""
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    rows = n + int(rng.integers(0, 40))
    owner = np.sort(rng.integers(0, objects, rows)) if rng.random() < 0.7 else np.full(rows, rng.integers(objects))
    keys = np.sort(rng.choice(1 << 27, rows, replace=False)) | owner.astype(np.int64) << 48
    keys = np.sort(keys)
    signal = rng.normal(size=(rows, 16)).astype(np.float32)
    signal[:, 2 + 3] *= rng.choice([0.1, 3, 100])
    case = rng.integers(0, 12, rows)
    signal[case == 0, 8:11] = 0  # no closing direction
    signal[case == 1, 8:11] = 2 * signal[case == 1, 11:14]  # parallel to the approach
    signal[case == 2, 11:14] = 0  # no approach
    signal[case == 3, 2:5] = 0  # no normal
    signal[case == 4, 2:14] = 0
    signal[case == 5, 11:14] = [0, 0, 1]  # the smallest axis is a tie
    signal[case == 5, 8:11] = 0
    if half:
        signal = signal.astype(np.float16)
    split_rows = np.sort(rng.choice(rows, n, replace=False)).astype(np.int32)
    cube = OctreeCube(float(np.float32(rng.uniform(-300, 900))))
    chosen = signal[split_rows, 2:].astype(np.float32)
    got = run(cuda, signal, 2, split_rows, keys, objects, cube, spare)
    assert got.status == 0
    compare(got, decode(chosen, keys[split_rows], cube, list(range(objects))), chosen)


@pytest.mark.slow
def test_decoding_of_a_frame(golden: dict[str, np.ndarray]) -> None:
    signal, keys, objects = golden["signal"].astype(np.float32), golden["signal/keys"], len(golden["obj_ids"])
    cube = OctreeCube(float(golden["z_min"][0]))
    got = run(library(), signal, 0, np.arange(len(keys), dtype=np.int32), keys, objects, cube)
    assert got.status == 0
    compare(got, decode(signal, keys, cube, list(range(objects))), signal)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 5, 13])
def test_decoding_reports_what_only_the_device_sees(value: float, channel: int) -> None:
    cuda, rng, cube = library(), np.random.default_rng(0), OctreeCube(100.0)
    signal = rng.normal(size=(40, 14)).astype(np.float32)
    keys, rows = np.sort(rng.choice(1 << 27, 40, replace=False)), np.arange(0, 40, 2, dtype=np.int32)
    bad = signal.copy()
    bad[7, channel] = value  # no row of the surface
    assert run(cuda, bad, 0, rows, keys, 1, cube).status == 0
    bad[8, channel] = value
    assert run(cuda, bad, 0, rows, keys, 1, cube).status == SIGNAL_NOT_FINITE
    wrong = rows.copy()
    wrong[[3, 9]] = [-1, 40]
    assert run(cuda, signal, 0, wrong, keys, 1, cube).status == ROW_OUT_OF_RANGE
    assert run(cuda, signal, 0, rows, keys | 1 << 48, 1, cube).status == OBJECT_OUT_OF_RANGE


def rank(
    cuda: Library, score: np.ndarray, removed: np.ndarray | None, spare: int | None = None
) -> tuple[np.ndarray, int]:
    """Rows, best first, and the status."""
    n, more = len(score), spare or 0
    order, count = np.full(n + more, UNTOUCHED, np.int32), np.full(1, UNTOUCHED, np.int32)
    status = np.zeros(1, np.int32)
    workspace = np.full(cuda.rank_grasps_workspace(n + more), 0x7F, np.uint8)
    cuda.rank_grasps(
        np.append(score, np.full(more, np.inf, np.float32)),
        None if removed is None else np.append(removed, np.zeros(more, np.uint8)), n + more,
        None if spare is None else count_of(n), order, count, status, workspace, workspace.size,
    )  # fmt: skip
    assert (order[count[0] :] == UNTOUCHED).all()
    return order[: count[0]], int(status[0])


@settings(max_examples=5 if SANITIZED else 40, deadline=None)
@given(
    SEED, ORDER, st.sampled_from([0, 1, 2, 255, 256, 257, 1024, 1025, 2500]),
    st.sampled_from(["normal", "ties", "wide", "zeros"]), st.sampled_from([None, 0.0, 0.5, 1.0]), SPARE,
)  # fmt: skip
def test_ranking(seed: int, order: int, n: int, kind: str, share: float | None, spare: int | None) -> None:
    rng, cuda = np.random.default_rng(seed), library()
    cuda.seed(order)
    score = rng.standard_normal(n).astype(np.float32)
    if kind == "ties":
        score = np.round(score * 2) / 2
    elif kind == "wide":
        score = (score * 10.0 ** rng.integers(-44, 38, n)).astype(np.float32)
        score[rng.random(n) < 0.05] = rng.choice([np.inf, -np.inf])
    elif kind == "zeros":  # the two zeros are equal
        score = rng.choice(np.array([0.0, -0.0, 1e-45, -1e-45], np.float32), n)
    removed = None if share is None else (rng.random(n) < share).astype(np.uint8) * np.uint8(Fit.PALM)
    remaining = np.arange(n) if removed is None else np.flatnonzero(removed == Fit.FITS)
    got, status = rank(cuda, score, removed, spare)
    assert status == 0
    np.testing.assert_array_equal(got, remaining[np.argsort(-score[remaining], kind="stable")])


def test_ranking_reports_scores_that_are_none() -> None:
    score = np.array([0.5, np.nan, 2, -1], np.float32)
    got, status = rank(library(), score, None)
    assert status == SCORE_NOT_A_NUMBER and got.tolist() == [2, 0, 3, 1]
    got, status = rank(library(), score, np.array([0, 3, 0, 0], np.uint8))
    assert status == 0 and got.tolist() == [2, 0, 3]


@pytest.mark.slow
@pytest.mark.skipif(SANITIZED, reason="the same faults, found more slowly")
@pytest.mark.parametrize(
    "change",
    [
        ("grasp_ranking", "same &= set ? votes : ~votes;", "same &= ~0u * (votes | 1u);"),  # ranks among all digits
        ("grasp_ranking", "here.next[thread] = place;", ""),  # rounds overwrite each other
        ("grasp_ranking", "= place;\n    __syncthreads();", "= place;"),  # places are read before they are there
        ("prefix", "values[i] = sum + before;", "values[i] = before;"),  # digits overlap
    ],
)
def test_planted_mistakes_are_found(change: tuple[str, str, str]) -> None:
    broken = planted(*change)
    score = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    wrong = []
    for order in SEEDS:
        broken.seed(order)
        try:
            got = rank(broken, score, None)[0]
        except CudaError:
            wrong.append(True)
        else:
            wrong.append(not np.array_equal(got, np.argsort(-score, kind="stable")))
    assert any(wrong)


def test_launchers_name_the_argument() -> None:
    cuda, some = library(), np.zeros(16, np.float32)
    with pytest.raises(CudaError, match="stride: expected 16 to"):
        cuda.decode(0, some, 1, 15, 2, some, some, 1, None, 1, 9, 640.0, some, *[some] * 11, None)
    with pytest.raises(CudaError, match="rotation: expected device memory, got null"):
        arrays = [some] * 4 + [None] + [some] * 6
        cuda.decode(0, some, 1, 16, 2, some, some, 1, None, 1, 9, 640.0, some, *arrays, None)
    with pytest.raises(CudaError, match="ranked_count: expected device memory, got null"):
        cuda.rank_grasps(some, None, 1, None, some, None, None, some, 0)
