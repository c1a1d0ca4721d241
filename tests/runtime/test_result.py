"""Grasps as arrays, in GraspNet's row form, and in other frames."""

from __future__ import annotations

import numpy as np
import pytest

from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result


def grasps(count: int, seed: int = 0, object_id: int = 1) -> Grasps:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    rotation[:, :, 2] *= np.linalg.det(rotation)[:, None]
    values = (
        rng.random(count),
        rng.random(count) * 0.1,
        rng.random(count) * 0.04,
        rotation,
        rng.normal(size=(count, 3)),
    )
    return Grasps(*(value.astype(np.float32) for value in values), np.full(count, object_id, np.int32))


def test_graspnet_rows_hold_everything() -> None:
    given = grasps(7, object_id=5)
    rows = given.to_graspnet()
    assert rows.shape == (7, 17) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:, 0], given.score)
    np.testing.assert_array_equal(rows[:, 2], np.float32(0.02))
    np.testing.assert_array_equal(rows[2, 4:13].reshape(3, 3), given.rotation[2])
    np.testing.assert_array_equal(rows[:, 16], 5)
    back = Grasps.from_graspnet(rows)
    for name in Grasps.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(given, name))


def test_reference_rows_round_trip(golden_collision: dict[str, np.ndarray]) -> None:
    rows = golden_collision["grasps"]
    np.testing.assert_array_equal(Grasps.from_graspnet(rows).to_graspnet(), rows)


def test_top_is_stable_and_best_first() -> None:
    given = grasps(6)
    given.score[:] = [0.1, 0.9, 0.5, 0.9, 0.2, 0.5]
    best = given.top(4)
    np.testing.assert_array_equal(best.translation, given.translation[[1, 3, 2, 5]])
    assert len(given.top(100)) == 6 and len(given.top(0)) == 0


def test_selection() -> None:
    given = grasps(5)
    np.testing.assert_array_equal(given[given.score > 0.5].score, given.score[given.score > 0.5])
    assert len(given[1:3]) == 2
    with pytest.raises(TypeError, match=r"grasps\[i : i \+ 1\]"):
        given[0]


def test_transformed_poses_are_the_product() -> None:
    given, hand = grasps(4), grasps(1, seed=9).poses()[0]
    np.testing.assert_allclose(given.transformed(hand).poses(), hand @ given.poses(), atol=1e-6)


def test_wrong_shapes_are_named() -> None:
    given = grasps(3)
    with pytest.raises(ValueError, match=r"rotation must have shape \(3, 3, 3\), got \(3, 9\)"):
        Grasps(
            given.score,
            given.width,
            given.depth,
            given.rotation.reshape(3, 9),
            given.translation,
            given.object_id,
        )
    with pytest.raises(ValueError, match=r"\(G, 17\)"):
        Grasps.from_graspnet(np.zeros((2, 16)))


def test_result_orders_the_grasps_of_all_objects() -> None:
    parts = [
        ObjectReconstruction(
            i,
            i - 1,
            *[np.empty((0, 3))] * 2,
            np.empty(0),
            np.empty((0, 3)),
            np.zeros(3),
            2.5,
            grasps(3, i, i),
        )
        for i in (1, 2)
    ]
    every = Result(tuple(parts)).grasps
    assert len(every) == 6 and (np.diff(every.score) <= 0).all() and set(every.object_id) == {1, 2}
    assert len(Result(()).grasps) == 0
