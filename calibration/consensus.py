"""A start for the refinement that a minority of wrong views cannot spoil: least median of squares over triples."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from zerograsp_edge.calibration.solvers import motions, park
from zerograsp_edge.calibration.transforms import angle_between, invert, mean_transform
from zerograsp_edge.runtime.hand_eye import Mode

# With 40 % wrong views, 100 triples miss an all-right one with probability (1 - 0.6^3)^100 < 1e-10; the surplus is
# for triples that determine X well.
_TRIPLES = 100
# Views beyond this many robust standard deviations are left out of the start; `hand_eye` decides on them later.
_SIGMAS = 4.0
# Below this (m at the board) no view is left out here: classical solutions err by as much.
_FLOOR_M = 0.003


def consensus(mode: Mode, hand: np.ndarray, board: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, Y and the views that agree on them.

    Args:
        hand: (n, 4, 4) base <- hand, n >= 3.
        board: (n, 4, 4) camera <- board.

    Returns:
        X (4, 4), Y (4, 4) as in `refine`, and (n,) bool.
    """
    forward = hand if mode == "eye-in-hand" else invert(hand)
    distance = float(np.median(np.linalg.norm(board[:, :3, 3], axis=1)))
    best, best_error = np.arange(len(hand)), np.full(len(hand), np.inf)
    for triple in _triples(len(hand)):
        error = _errors(forward, board, triple, distance)
        if np.median(error) < np.median(best_error):
            best, best_error = triple, error
    for _ in range(3):
        scale = 1.4826 * float(np.median(best_error))
        agreeing = best_error <= max(_SIGMAS * scale, _FLOOR_M)
        best = np.flatnonzero(agreeing)
        if len(best) < 3:  # no consensus at all: nothing is left out, the refinement's residuals tell
            best = np.arange(len(hand))
        best_error = _errors(forward, board, best, distance)
    x = park(*motions(forward[best], board[best]))
    used = np.zeros(len(hand), bool)
    used[best] = True
    return x, board_mounting(mode, x, hand[best], board[best]), used


def board_mounting(mode: Mode, x: np.ndarray, hand: np.ndarray, board: np.ndarray) -> np.ndarray:
    """Y as the mean over views (n, 4, 4), given X."""
    return mean_transform((hand if mode == "eye-in-hand" else invert(hand)) @ x @ board)


def _errors(forward: np.ndarray, board: np.ndarray, subset: np.ndarray, distance: float) -> np.ndarray:
    """(n,) m: how far every view puts the board from where the subset's solution has it."""
    try:
        x = park(*motions(forward[subset], board[subset]))
    except np.linalg.LinAlgError:
        return np.full(len(board), np.inf)
    places = forward @ x @ board
    y = mean_transform(places[subset])
    return np.hypot(
        np.linalg.norm(places[:, :3, 3] - y[:3, 3], axis=1), distance * angle_between(places, y[None])
    )


def _triples(n: int) -> list[np.ndarray]:
    """All triples of few views, else a fixed random choice: the result must not depend on the day."""
    if comb(n, 3) <= _TRIPLES:
        return [np.array(t) for t in combinations(range(n), 3)]
    rng = np.random.default_rng(0)
    return [rng.choice(n, 3, replace=False) for _ in range(_TRIPLES)]
