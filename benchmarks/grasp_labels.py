"""Do the grasps that training labels call good hold? Executed in a simulated two-finger gripper.

Worlds are drawn as for training, from test seeds and, in equal part, of families never trained on. Of every object some
labelled grasps are drawn, evenly from five ranges of graspness, and one random grasp at a point that has no valid
label, opened to fit the object. "Labelled good" means graspness of 0.5 or more. A grasp holds when the object is still
between the fingers half a second after a lift by 100 mm; objects around are free bodies, colliding on the way in
counts as not held. "Best per object" is the label with the highest graspness: what the runtime would execute.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

from zerograsp_edge.export.training.clearance import Poses
from zerograsp_edge.export.training.contacts import SIDE_CLEARANCE_MM, pad_contact
from zerograsp_edge.export.training.distance_field import DistanceField
from zerograsp_edge.export.training.grasps import label_world
from zerograsp_edge.export.training.sample import GRASPNESS
from zerograsp_edge.export.training.scenes import SCENE_KINDS, make_world
from zerograsp_edge.runtime.grasp.decode import decode_grasps
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.simulation.gripper import HELD, MAX_DEPTH_MM, MAX_OPENING_MM, GraspTrials, Trial
from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples
from zerograsp_edge.runtime.simulation.world import World, WorldObject

GOOD = 0.5
RANGES = ((1e-6, 0.3), (0.3, GOOD), (GOOD, 0.65), (0.65, 0.8), (0.8, 1.01))
FIRST_SEED = 70_000
SPACING_MM = 2.0


@dataclass(frozen=True)
class Executed:
    """One trial: what the label said, and what became of it. `kind`: "labelled", "best" or "random"."""

    kind: str
    scene: str
    split: str
    family: str
    graspness: float
    trial: Trial


def main() -> None:
    harness.main("grasp_labels", __doc__.splitlines()[0], measure)


def measure(quick: bool) -> list[harness.Figure]:
    worlds = 2 if quick else 15  # of each scene kind and split
    trials: list[Executed] = []
    seconds, objects, labelled, unlabelled = 0.0, 0, 0, 0
    for split in ("test_trained", "test_unseen"):
        for kind in SCENE_KINDS if not quick else SCENE_KINDS[:2]:
            for seed in range(FIRST_SEED, FIRST_SEED + worlds):
                world = make_world(seed, split, kind)
                rng = np.random.default_rng(seed)
                surfaces = [surface_samples(item.shape, SPACING_MM, rng) for item in world.objects]
                start = time.process_time()
                labels = label_world(world, surfaces, rng)
                seconds += time.process_time() - start
                objects += len(labels)
                labelled += sum(int((rows[:, GRASPNESS] >= GOOD).any()) for rows in labels)
                unlabelled += sum(int(not rows.any()) for rows in labels)
                for item, kind_of_grasp, graspness, trial in execute(world, surfaces, labels, rng):
                    trials.append(Executed(kind_of_grasp, kind, split, item.family, graspness, trial))
    report(trials)
    return summarise(trials) + [
        harness.figure("objects with a labelled-good grasp", labelled / objects, "of objects", "higher"),
        harness.figure("objects without any label", unlabelled / objects, "of objects"),
        harness.figure("labelling, per object", seconds / objects, "CPU s", "lower", asked=1.0),
    ]


def execute(
    world: World,
    surfaces: list[tuple[np.ndarray, np.ndarray]],
    labels: list[np.ndarray],
    rng: np.random.Generator,
) -> Iterator[tuple[WorldObject, str, float, Trial]]:
    """Trials of one world: per object its best label, one label of each range that it has, one random grasp."""
    gripper = GraspTrials(world)
    for item, (points, normals), rows in zip(world.objects, surfaces, labels, strict=True):
        graspness = rows[:, GRASPNESS]
        drawn = [("best", int(graspness.argmax()))] if graspness.any() else []
        for low, high in RANGES:
            inside = np.flatnonzero((graspness >= low) & (graspness < high))
            if len(inside):
                drawn.append(("labelled", int(rng.choice(inside))))
        grasps = as_grasps(points, normals, rows, item)
        for kind, row in drawn:
            yield item, kind, float(graspness[row]), attempt(gripper, grasps, row, item)
        invalid = np.flatnonzero(graspness == 0)
        if len(invalid):
            row = int(rng.choice(invalid))
            random = random_label(points[row], normals[row], item, rng)
            grasps = as_grasps(points[row : row + 1], normals[row : row + 1], random[None], item)
            yield item, "random", 0.0, attempt(gripper, grasps, 0, item)


def as_grasps(points: np.ndarray, normals: np.ndarray, rows: np.ndarray, item: WorldObject) -> Grasps:
    """What the runtime makes of labels: grasps in the object's frame."""
    signal = np.concatenate([normals, np.zeros((len(points), 1)), rows], axis=1).astype(np.float32)
    return decode_grasps(signal, points.astype(np.float32), np.full(len(points), item.object_id))


def attempt(gripper: GraspTrials, grasps: Grasps, row: int, item: WorldObject) -> Trial:
    pose = np.eye(4)
    pose[:3, :3] = item.pose[:3, :3] @ grasps.rotation[row]
    pose[:3, 3] = item.pose[:3, :3] @ grasps.translation[row] + item.pose[:3, 3] / 1000
    return gripper.try_grasp(pose, float(grasps.width[row]), float(grasps.depth[row]), item.object_id)


def random_label(
    point: np.ndarray, normal: np.ndarray, item: WorldObject, rng: np.random.Generator
) -> np.ndarray:
    """(10,) a grasp at a surface point: up to 30 degrees off the normal, any closing direction, opened to fit."""
    row = np.zeros(10, np.float32)
    approach = normal + np.tan(np.radians(30)) * rng.uniform(-1, 1, 3) / np.sqrt(3)
    approach /= np.linalg.norm(approach)
    closing = np.cross(approach, rng.normal(size=3))
    closing /= np.linalg.norm(closing)
    depth = rng.uniform(5, 30)
    pose = Poses(
        *(
            torch.tensor(np.array(v)[None], dtype=torch.float32)
            for v in (point, -approach, closing, depth, 0.0)
        )
    )
    contact = pad_contact(DistanceField.of(item.shape), pose)
    half = float(torch.maximum(contact.upper, -contact.lower)[0]) if contact.touched[0] else np.inf
    width = min(2 * (half + SIDE_CLEARANCE_MM), MAX_OPENING_MM)
    row[2:5], row[5:8], row[8], row[9] = closing, approach, depth / MAX_DEPTH_MM, width / MAX_OPENING_MM
    return row


def summarise(trials: list[Executed]) -> list[harness.Figure]:
    def rate(name: str, chosen: list[Executed], better: str = "higher", asked: float | None = None) -> None:
        if chosen:
            held = np.mean([t.trial.outcome == HELD for t in chosen])
            figures.append(
                harness.figure(f"{name} ({len(chosen)} grasps)", 100 * held, "% hold", better, asked)
            )

    figures: list[harness.Figure] = []
    labelled = [t for t in trials if t.kind == "labelled"]
    good = [t for t in labelled if t.graspness >= GOOD]
    rate(f"labelled good, graspness >= {GOOD}", good, asked=90)
    for split in ("test_trained", "test_unseen"):
        rate(f"  {split}", [t for t in good if t.split == split])
    for kind in SCENE_KINDS:
        rate(f"  {kind}", [t for t in good if t.scene == kind])
    for low, high in RANGES:
        rate(f"graspness {low:.2f} to {min(high, 1):.2f}", [t for t in labelled if low <= t.graspness < high])
    rate("best per object", [t for t in trials if t.kind == "best"], asked=90)
    rate("random, at points without a label", [t for t in trials if t.kind == "random"], better="lower")
    return figures


def report(trials: list[Executed]) -> None:
    """Outcomes by range of graspness, and the families whose good labels fail most."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    failures: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for t in trials:
        ranges = [f"{low:.2f}.." for low, high in RANGES if low <= t.graspness < high]
        outcomes[t.kind if t.kind != "labelled" else ranges[0]][t.trial.outcome] += 1
        if t.graspness >= GOOD:
            totals[t.family] += 1
            failures[t.family] += t.trial.outcome != HELD
    for name, counts in sorted(outcomes.items()):
        print(f"{name:10s} " + ", ".join(f"{outcome} {n}" for outcome, n in counts.most_common()))
    print(
        "good labels that failed, by family: "
        + ", ".join(f"{f} {n}/{totals[f]}" for f, n in failures.most_common() if n)
    )


if __name__ == "__main__":
    main()
