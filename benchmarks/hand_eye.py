"""Hand-eye calibration against known truth: error over the number of poses, refinement against classical solvers.

Corners carry 0.06 px of noise (what detection has on rendered pictures: tests/calibration), the robot's poses 0.1 mm
and 0.02 degrees per axis. Errors are root mean squares over draws of poses and noise.
"""

from __future__ import annotations

import time

import numpy as np
from harness import Figure, figure, main

from zerograsp_edge.calibration.hand_eye import View, calibrate
from zerograsp_edge.calibration.simulation import Rig, board_views, make_rig
from zerograsp_edge.calibration.transforms import angle_between

ASKED_MM, ASKED_DEG = 1.0, 0.1


def draw(rig: Rig, count: int, seed: int) -> list[View]:
    rng = np.random.default_rng(seed)
    poses = board_views(rig, count, rng)
    reported = rig.reported(rig.hand_pose(poses), rng)
    return [View(f"{i}", reported[i], rig.detection(pose, rng)) for i, pose in enumerate(poses)]


def error(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """mm and degrees."""
    return (
        float(1000 * np.linalg.norm(found[:3, 3] - truth[:3, 3])),
        float(np.degrees(angle_between(found, truth))),
    )


def figures(quick: bool) -> list[Figure]:
    counts, draws = ((8, 15), 3) if quick else ((4, 6, 8, 12, 20), 20)
    results: list[Figure] = []
    for mode in ("eye-in-hand", "eye-to-hand"):
        rig = make_rig(mode, seed=1)  # type: ignore[arg-type]
        for count in counts:
            errors: dict[str, list[tuple[float, float]]] = {}
            seconds = []
            for seed in range(draws):
                views = draw(rig, count, seed)
                start = time.perf_counter()
                result = calibrate(rig.mode, views, rig.board, rig.camera)
                seconds.append(time.perf_counter() - start)
                errors.setdefault("refined", []).append(error(result.transform, rig.mounted))
                for name, classical in result.classical.items():
                    if classical.transform is not None:
                        errors.setdefault(name, []).append(error(classical.transform, rig.mounted))
            rms = {name: np.sqrt(np.mean(np.square(values), axis=0)) for name, values in errors.items()}
            for axis, (unit, asked) in enumerate((("mm", ASKED_MM), ("deg", ASKED_DEG))):
                peer = min((name for name in rms if name != "refined"), key=lambda name: rms[name][axis])
                results.append(
                    figure(
                        f"{mode}, {count} poses: RMS error",
                        float(rms["refined"][axis]),
                        unit,
                        asked=asked,
                        peer=f"best classical solver, {peer}",
                        peer_value=float(rms[peer][axis]),
                    )
                )
            worst = np.max(errors["refined"], axis=0)
            results.append(figure(f"{mode}, {count} poses: worst of {draws}", float(worst[0]), "mm"))
            results.append(figure(f"{mode}, {count} poses: worst of {draws}", float(worst[1]), "deg"))
        results.append(figure(f"{mode}, {counts[-1]} poses: time, detection aside", min(seconds), "s"))
    return results


if __name__ == "__main__":
    main("hand_eye", "Hand-eye calibration: error over the number of poses.", figures)
