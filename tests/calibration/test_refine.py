from __future__ import annotations

import numpy as np
import pytest

from zerograsp_edge.calibration.board import Detection
from zerograsp_edge.calibration.hand_eye import calibrate
from zerograsp_edge.calibration.refine import Views, predict, refine
from zerograsp_edge.calibration.simulation import Repeatability, Rig, board_views
from zerograsp_edge.calibration.transforms import from_vector, rotation_vector, to_vector


def views_of(rig: Rig, views: list) -> Views:
    hand = np.stack([v.hand for v in views])
    return Views.of(rig.mode, hand, [v.detection for v in views], rig.board, rig.camera)


def test_derivatives(rig: Rig, corner_views) -> None:
    rng = np.random.default_rng(0)
    views = views_of(rig, corner_views(rig, board_views(rig, 4, rng)))
    x = np.concatenate([to_vector(rig.mounted), to_vector(rig.board_mounted)])
    errors = rng.normal(0, 0.01, (4, 6))
    prediction = predict(views, x, errors)
    step = 1e-6
    for k, d in enumerate(step * np.eye(12)):
        numeric = predict(views, x + d, errors).pixels - predict(views, x - d, errors).pixels
        np.testing.assert_allclose(
            prediction.by_mounting[:, :, k], numeric / (2 * step), rtol=1e-5, atol=2e-3
        )
    for k, d in enumerate(step * np.eye(6)):
        numeric = predict(views, x, errors + d).pixels - predict(views, x, errors - d).pixels
        np.testing.assert_allclose(prediction.by_error[:, :, k], numeric / (2 * step), rtol=1e-5, atol=2e-3)
    larger = Views(views.mode, views.chain, views.points * (1 + step), views.pixels, views.view, views.camera)
    numeric = (predict(larger, x, errors).pixels - prediction.pixels) / step
    np.testing.assert_allclose(prediction.by_scale, numeric, rtol=1e-4, atol=2e-3)


def test_exact_data_give_the_exact_answer(rig: Rig) -> None:
    rng = np.random.default_rng(1)
    poses = board_views(rig, 8, rng)
    hands = rig.hand_pose(poses)
    views = Views.of(rig.mode, hands, [rig.detection(p, rng, 0.0) for p in poses], rig.board, rig.camera)
    away = from_vector(np.array([0.05, -0.04, 0.03, 0.02, 0.01, -0.02]))
    found = refine(views, rig.mounted @ away, rig.board_mounted @ away)
    np.testing.assert_allclose(found.camera_mounting, rig.mounted, atol=1e-7)
    np.testing.assert_allclose(found.board_mounting, rig.board_mounted, atol=1e-7)
    assert abs(found.scale) < 1e-6


def test_covariance_and_noise_are_honest(rig: Rig, corner_views) -> None:
    """Over many draws the error, in units of the stated covariance, is chi-square with six degrees of freedom."""
    normalised, pixel, rotation, translation = [], [], [], []
    for seed in range(16):
        poses = board_views(rig, 15, np.random.default_rng(100 + seed))
        found = refine(views_of(rig, corner_views(rig, poses, seed)), rig.mounted, rig.board_mounted)
        turn = rotation_vector(found.camera_mounting[:3, :3].T @ rig.mounted[:3, :3])
        error = np.append(turn, rig.mounted[:3, 3] - found.camera_mounting[:3, 3])
        normalised.append(error @ np.linalg.solve(found.covariance, error))
        pixel.append(found.noise.pixel)
        rotation.append(found.noise.rotation)
        translation.append(found.noise.translation)
    # Mean of 16 chi-square(6): 6 +- 0.87. Wide enough for the noise levels being estimated too.
    assert 3.5 < np.mean(normalised) < 9.5
    assert np.mean(pixel) == pytest.approx(0.06, rel=0.1)
    assert np.degrees(np.mean(rotation)) == pytest.approx(0.02, rel=0.25)
    assert np.mean(translation) == pytest.approx(1e-4, rel=0.25)


def test_a_coarser_robot_is_noticed(rig: Rig, corner_views) -> None:
    coarse = Rig(
        rig.mode, rig.camera, rig.board, rig.mounted, rig.board_mounted,
        repeatability=Repeatability(8e-4, float(np.radians(0.15))),
    )  # fmt: skip
    poses = board_views(coarse, 25, np.random.default_rng(3))
    found = refine(views_of(coarse, corner_views(coarse, poses, 3)), rig.mounted, rig.board_mounted)
    assert found.noise.translation == pytest.approx(8e-4, rel=0.4)
    assert np.degrees(found.noise.rotation) == pytest.approx(0.15, rel=0.4)


def test_bad_corners_do_not_pull(rig: Rig, corner_views) -> None:
    poses = board_views(rig, 12, np.random.default_rng(4))
    clean = corner_views(rig, poses, 4)
    reference = refine(views_of(rig, clean), rig.mounted, rig.board_mounted)
    for view in clean[:4]:
        pixels = view.detection.pixels.copy()
        pixels[5] += [0.4, -0.3]  # eight standard deviations, too little for `detect` to drop it
        object.__setattr__(
            view,
            "detection",
            Detection(view.detection.ids, pixels, view.detection.camera_from_board, 0.5),
        )
    found = refine(views_of(rig, clean), rig.mounted, rig.board_mounted)
    sigma = np.sqrt(np.diag(reference.covariance))
    moved = to_vector(np.linalg.inv(reference.camera_mounting) @ found.camera_mounting)
    assert (np.abs(moved) < 2 * sigma.max()).all()


def test_rows_of_many_views_stay_cheap(rig: Rig, corner_views) -> None:
    """60 views through the whole calibration: the unknowns stay 12."""
    views = corner_views(rig, board_views(rig, 60, np.random.default_rng(5)), 5)
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert len(result.used) >= 59
    assert result.sigma_translation_mm < 0.08
