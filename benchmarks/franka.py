"""The Franka: inverse kinematics; stops, and the grasp loop, on an arm simulated by franky-sim (extra `franka-sim`).

The arm is driven by the driver of a real one, over libfranka's protocol; camera and masks are exact. The simulated
world may run slower than the clock, so durations are those of its own time.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time

import numpy as np
from harness import Figure, figure, main

from zerograsp_edge.runtime.robot.kinematics import FR3, Inverse, forward

OBJECTS = 3


def kinematics_figures(quick: bool) -> list[Figure]:
    rng = np.random.default_rng(0)
    # Tips within 0.6 rad of straight down over a table, and anywhere that the joints can go.
    tilt = rng.uniform(-0.6, 0.6, (300, 3))
    table = np.array([_down(*t) for t in tilt])
    table[:, :3, 3] = rng.uniform([0.3, -0.3, 0.2], [0.7, 0.3, 0.5], (300, 3))
    anywhere = forward(rng.uniform(FR3.low, FR3.high, (300, 7)))
    far = table.copy()
    far[:, 0, 3] += 0.4
    inverse, results = Inverse(), []
    for name, poses in (("over a table", table), ("anywhere", anywhere), ("at the edge of the reach", far)):
        seconds = []
        for _ in range(3 if quick else 20):
            start = time.perf_counter()
            reached = inverse.reachable(poses)
            seconds.append(time.perf_counter() - start)
        share = f"{np.mean(reached):.0%} reachable"
        results.append(figure(f"inverse kinematics, 300 poses {name} ({share})", 1000 * min(seconds), "ms"))
    return results


def _down(a: float, b: float, turn: float) -> np.ndarray:
    """A flange that looks down, tilted by a and b, turned about its axis; rad."""
    pose = np.eye(4)
    for axis, angle in ((0, np.pi + a), (1, b), (2, 5 * turn)):
        step, (i, j) = np.eye(4), ((1, 2), (2, 0), (0, 1))[axis]
        step[i, i] = step[j, j] = np.cos(angle)
        step[j, i], step[i, j] = np.sin(angle), -np.sin(angle)
        pose = pose @ step
    return pose


def stop_figures(quick: bool) -> list[Figure]:
    """How long a stop takes, from the call to what the world shows, in its own milliseconds."""
    from zerograsp_edge.runtime.robot.franka import Franka
    from zerograsp_edge.runtime.robot.franka_config import FrankaConfig
    from zerograsp_edge.runtime.simulation.franka_world import FrankaWorld

    calls, ways, fingers = [], [], []
    with FrankaWorld(()) as world, Franka(FrankaConfig(world.host, realtime=False, finger_speed=0.01)) as robot:

        def rest() -> None:
            while robot.state().moving:
                robot.sleep(0.005)

        home = robot.state().tips
        for _ in range(2 if quick else 10):
            goal = home.copy()
            goal[:3, 3] += [0.1, 0.25, -0.1]
            robot.follow(goal[None])
            while np.linalg.norm(robot.state().tips[:3, 3] - home[:3, 3]) < 0.1:
                robot.sleep(0.002)
            before, start = robot.state().tips, time.perf_counter()
            robot.stop()
            calls.append(1000 * (time.perf_counter() - start))
            rest()
            ways.append(1000 * float(np.linalg.norm(robot.state().tips[:3, 3] - before[:3, 3])))
            robot.recover()
            robot.reach(home)
            rest()
            robot.grip(0.0)
            rest()
            robot.grip(0.08)
            while robot.state().opening < 0.02:
                robot.sleep(0.002)
            began = world.steps()
            robot.stop()
            rest()
            fingers.append(world.steps() - began)
            robot.recover()
    many = f"{len(calls)} stops in simulation"
    return [
        figure(f"{many}: stop() returned after, worst", max(calls), "ms"),
        figure(f"{many}: way of the tips after it, worst", max(ways), "mm"),
        figure(f"{many} of the fingers: until they stood, median", float(np.median(fingers)), "ms"),
        figure(f"{many} of the fingers: until they stood, worst", max(fingers), "ms"),
    ]


def loop_figures(quick: bool) -> list[Figure]:
    from zerograsp_edge.runtime.bundle import load_bundle
    from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support, Workspace
    from zerograsp_edge.runtime.grasp.gripper import FRANKA
    from zerograsp_edge.runtime.grasp.refine import RefineConfig
    from zerograsp_edge.runtime.loop import GraspLoop, Limits, LoopConfig, Timeouts, TipsPose
    from zerograsp_edge.runtime.models import EDGE_MODEL
    from zerograsp_edge.runtime.pipeline import Pipeline
    from zerograsp_edge.runtime.robot.franka import Franka
    from zerograsp_edge.runtime.robot.franka_config import FrankaConfig
    from zerograsp_edge.runtime.simulation.franka_world import TABLE_TOP_M, FrankaCamera, FrankaWorld
    from zerograsp_edge.runtime.simulation.scenes import look_at, make_world

    refine = RefineConfig(
        gripper=FRANKA,
        approach=ApproachCone(angle=45),
        support=Support(offset=TABLE_TOP_M, clearance=0.003),
    )
    pipeline = Pipeline(load_bundle(EDGE_MODEL), refine=refine)
    config = LoopConfig(
        observe=TipsPose((0.35, 0.0, 0.45)),
        place=(TipsPose((0.4, -0.35, 0.35)), TipsPose((0.4, 0.35, 0.35))),
        limits=Limits(picks=1 if quick else OBJECTS, frame_age=60.0, plan_age=600.0),
        timeouts=Timeouts(**{field.name: 600.0 for field in dataclasses.fields(Timeouts)}),
        identical_frames="allow",
    )
    workspace = Workspace((0.2, -0.5, TABLE_TOP_M), (0.8, 0.5, 0.8))
    picks = attempts = objects = 0
    lived = 0.0
    for seed in range(1 if quick else 3):
        world = make_world(seed, "test_trained", "clutter", objects=(OBJECTS, OBJECTS))
        with (
            FrankaWorld(world.objects) as simulated,
            FrankaCamera(simulated, look_at(np.array([0.95, 0.0, 0.55]), np.array([0.5, 0.0, 0.12]))) as camera,
            Franka(
                FrankaConfig(simulated.host, realtime=False, speed=0.5, workspace=workspace), camera.hand_eye
            ) as robot,
        ):
            began = simulated.steps()
            report = GraspLoop(robot, camera, pipeline, config, threaded=False).run()
            lived += (simulated.steps() - began) / 1000
            print(f"seed {seed}: {report.ending.value}, {report.explanation}; {report.failures}", flush=True)
        picks, attempts = picks + report.picks, attempts + report.attempts
        objects += config.limits.picks or OBJECTS
    name = f"grasp loop, simulated Franka, edge model, {objects} objects asked for"
    return [
        figure(f"{name}: picked and placed", picks, "", better="higher"),
        figure(f"{name}: attempts", attempts, ""),
        figure(f"{name}: robot's time for a pick", lived / max(picks, 1), "s"),
    ]


def figures(quick: bool) -> list[Figure]:
    results = kinematics_figures(quick)
    if importlib.util.find_spec("franky_sim") is None or importlib.util.find_spec("franky") is None:
        print("stops and the grasp loop are left out: pip install 'zerograsp-edge[franka-sim]'")
        return results
    return results + stop_figures(quick) + loop_figures(quick)


if __name__ == "__main__":
    main("franka", "Inverse kinematics; stops and the grasp loop on a simulated Franka.", figures)
