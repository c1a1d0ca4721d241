"""Measures against closed forms: planes, spheres, noise, reversed normals, nothing at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra `sim`")

from zerograsp_edge.export.training.metrics import (
    MEASURES,
    ObjectMetrics,
    Record,
    Surface,
    compare,
    level_of,
    object_metrics,
    summarise,
    summarise_by,
)

UP = np.array([0.0, 0.0, 1.0])


def plane(height: float, edge: float = 100.0, spacing: float = 1.0) -> Surface:
    axis = np.arange(0, edge, spacing)
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    return Surface(np.stack([x, y, np.full_like(x, height)], axis=1), np.tile(UP, (len(x), 1)))


def sphere(count: int, radius: float, seed: int) -> Surface:
    normals = np.random.default_rng(seed).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Surface(radius * normals, normals)


@pytest.mark.parametrize("distance", [0.0, 3.0, 5.0, 7.5, 30.0])
def test_parallel_planes(distance: float) -> None:
    result = compare(plane(distance), plane(0))
    assert result.accuracy == result.completeness == result.chamfer == pytest.approx(distance)
    assert result.f1_5 == (100 if distance <= 5 else 0)
    assert result.f1_10 == (100 if distance <= 10 else 0)
    assert result.normal_consistency == result.normal_agreement == pytest.approx(100)
    assert not result.missed


def test_half_a_plane_is_accurate_but_incomplete() -> None:
    whole, half = plane(0), plane(0)
    rows = half.points[:, 0] < 50
    half = Surface(half.points[rows], None)
    result = compare(half, whole)
    assert result.accuracy == 0
    # The missing columns lie 1 .. 50 mm from the last one that is there.
    assert result.completeness == pytest.approx(np.arange(1, 51).sum() / 100)
    recall = 0.5 + 0.1
    assert result.f1_10 == pytest.approx(100 * 2 * recall / (1 + recall))
    assert math.isnan(result.normal_consistency)


def test_a_fresh_sample_scores_the_sampling_error() -> None:
    # The mean distance to the nearest of randomly scattered points of density d is 0.5 / sqrt(d).
    radius, count = 40.0, 30_000
    expected = 0.5 / np.sqrt(count / (4 * np.pi * radius**2))
    result = compare(sphere(count, radius, 1), sphere(count, radius, 2))
    assert result.chamfer == pytest.approx(expected, rel=0.03)
    assert result.f1_5 == 100
    assert result.normal_consistency > 99.9


def test_looking_up_fewer_points_leaves_the_means_alone() -> None:
    a, b = sphere(40_000, 40, 1), sphere(40_000, 42, 2)
    every, some = (compare(a, b, max_queries=n) for n in (40_000, 4_000))
    for name in MEASURES:
        assert getattr(some, name) == pytest.approx(getattr(every, name), rel=0.02)


def test_noise_along_the_normal() -> None:
    # |N(0, s)| has mean s sqrt(2 / pi); spacing is small beside it.
    s, truth = 4.0, plane(0, spacing=0.5)
    noisy = truth.points + np.random.default_rng(0).normal(0, s, (len(truth), 1)) * UP
    result = compare(Surface(noisy, truth.normals), truth)
    assert result.accuracy == pytest.approx(s * np.sqrt(2 / np.pi), rel=0.02)
    within = math.erf(5 / (s * np.sqrt(2)))
    assert result.f1_5 == pytest.approx(100 * 2 * within / (1 + within), rel=0.02)


def test_reversed_normals_show_in_the_signed_measure_only() -> None:
    truth = plane(0)
    assert truth.normals is not None
    result = compare(Surface(truth.points, -truth.normals), truth)
    assert result.normal_consistency == pytest.approx(100)
    assert result.normal_agreement == pytest.approx(-100)


@pytest.mark.parametrize("degrees", [30, 60, 90])
def test_tilted_normals(degrees: float) -> None:
    truth, angle = plane(0), np.radians(degrees)
    # Their length does not matter.
    tilted = np.tile(7 * np.array([np.sin(angle), 0, np.cos(angle)]), (len(truth), 1))
    result = compare(Surface(truth.points, tilted), truth)
    assert result.normal_consistency == pytest.approx(100 * np.cos(angle), abs=1e-9)


def test_nothing_predicted_scores_the_worst() -> None:
    truth = sphere(5000, 50, 0)
    assert truth.normals is not None
    result = object_metrics(np.empty((0, 3)), None, truth.points, truth.normals)
    assert result.missed
    assert result.chamfer == pytest.approx(100 * np.sqrt(3), rel=0.02)
    assert result.f1_5 == result.f1_10 == result.normal_consistency == 0
    # A single point anywhere in the box is better.
    assert compare(Surface(np.zeros((1, 3))), truth).chamfer < result.chamfer


def test_the_same_seed_gives_the_same_numbers() -> None:
    a, b = sphere(20_000, 40, 1), sphere(20_000, 42, 2)
    assert compare(a, b, max_queries=500) == compare(a, b, max_queries=500)
    assert compare(a, b, max_queries=500) != compare(a, b, max_queries=500, seed=1)


def test_a_rigid_motion_of_both_changes_nothing() -> None:
    a, b = sphere(3000, 40, 1), sphere(3000, 45, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation * np.sign(np.linalg.det(rotation)), (10, -20, 300)
    before, after = compare(a, b), compare(a.moved(transform), b.moved(transform))
    for name in MEASURES:
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9)


@pytest.mark.parametrize(
    ("points", "normals", "message"),
    [
        (np.zeros((4, 2)), None, r"points: expected shape \(4, 3\), got \(4, 2\)"),
        (np.zeros((4, 3)), np.zeros((3, 3)), r"normals: expected shape \(4, 3\), got \(3, 3\)"),
        (np.full((4, 3), np.nan), None, "points: expected finite values, 12 are not"),
    ],
)
def test_bad_arrays_are_named(points: np.ndarray, normals: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surface(points, normals)


def test_an_empty_truth_is_refused() -> None:
    with pytest.raises(ValueError, match="true surface has no points"):
        compare(plane(0), Surface(np.empty((0, 3))))


@pytest.mark.parametrize(
    ("fraction", "level"),
    [(1.0, "easy"), (0.71, "easy"), (0.7, "normal"), (0.4, "normal"), (0.39, "hard"), (0.0, "hard")],
)
def test_levels(fraction: float, level: str) -> None:
    assert level_of(fraction) == level


def test_a_level_needs_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.1, got 40"):
        level_of(40)


def score(chamfer: float, normal: float, *, missed: bool = False) -> ObjectMetrics:
    return ObjectMetrics(chamfer, chamfer, chamfer, 50, 80, normal, normal, missed)


def test_means_count_every_object_and_skip_absent_normals_only() -> None:
    summary = summarise([score(1, 90), score(3, float("nan")), score(11, 0, missed=True)])
    assert (summary.count, summary.missed) == (3, 1)
    assert summary["chamfer"] == 5
    assert summary["normal_consistency"] == 45
    assert math.isnan(summarise([score(3, float("nan"))])["normal_consistency"])
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


def test_groups() -> None:
    records = [
        Record("ours", split, 0, "table", i, "box", level, score(chamfer, 90))
        for i, (split, level, chamfer) in enumerate(
            [("seen", "easy", 1), ("seen", "hard", 2), ("new", "easy", 4), ("seen", "easy", 3)]
        )
    ]
    groups = summarise_by(records, lambda r: (r.split, r.level))
    assert {key: (s.count, s["chamfer"]) for key, s in groups.items()} == {
        ("seen", "easy"): (2, 2.0),
        ("seen", "hard"): (1, 2.0),
        ("new", "easy"): (1, 4.0),
    }
