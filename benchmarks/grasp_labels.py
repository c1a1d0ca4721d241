"""Do the grasps that training labels call good hold? Executed in a simulated two-finger gripper.

Worlds are drawn as for training, from test seeds and, in equal part, of families never trained on. Of every object
some labelled grasps are drawn, evenly from five ranges of graspness; "labelled good" means graspness of 0.5 or more.
"Best per object" is the label with the highest graspness, what the runtime would execute. Each is executed as it is,
and again "shaken": with an error of the pose, as perception makes it. Beside them stands one random grasp per object,
centred, opened to fit and free of collision. A grasp holds when the object is still between the fingers half a second
after a lift by 100 mm; objects around are free bodies, and touching anything on the way in counts as not held.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

from zerograsp_edge.export.training.clearance import Poses, Surroundings
from zerograsp_edge.export.training.contacts import SIDE_CLEARANCE_MM, pad_contact
from zerograsp_edge.export.training.distance_field import DistanceField
from zerograsp_edge.export.training.grasps import label_world
from zerograsp_edge.export.training.sample import APPROACH, CLOSING, DEPTH, GRASP_CHANNELS, GRASPNESS, WIDTH
from zerograsp_edge.runtime.grasp.decode import decode_grasps
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.simulation.gripper import HELD, MAX_DEPTH_MM, MAX_OPENING_MM, GraspTrials, Trial
from zerograsp_edge.runtime.simulation.scenes import SceneKind, Split, make_world
from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples
from zerograsp_edge.runtime.simulation.world import World, WorldObject

SPLITS: tuple[Split, ...] = ("test_trained", "test_unseen")
SCENES: tuple[SceneKind, ...] = ("single", "clutter", "pile", "shelf")
GOOD = 0.5
RANGES = ((1e-6, 0.3), (0.3, GOOD), (GOOD, 0.65), (0.65, 0.8), (0.8, 1.01))
FIRST_SEED = 70_000
SPACING_MM = 2.0
RANDOM_TRIES = 200
SHAKE_MM, SHAKE_DEGREES = 2.0, 4.0  # standard deviations


@dataclass(frozen=True)
class Executed:
    """One trial: what the label said, and what became of it.

    `kind`: "labelled", "best", either with ", shaken" when the pose had an error, or "random".
    """

    kind: str
    scene: str
    split: str
    family: str
    graspness: float
    trial: Trial


def main() -> None:
    harness.main("grasp_labels", __doc__.splitlines()[0], measure)


def measure(quick: bool) -> list[harness.Figure]:
    worlds = 2 if quick else 8  # of each scene kind and split
    trials: list[Executed] = []
    seconds, objects, labelled, unlabelled = 0.0, 0, 0, 0
    for split in SPLITS:
        for kind in SCENES[:2] if quick else SCENES:
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
    return [
        *summarise(trials),
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
    fields = [DistanceField.of(item.shape) for item in world.objects]
    for index, (item, rows) in enumerate(zip(world.objects, labels, strict=True)):
        points, normals = surfaces[index]
        graspness = rows[:, GRASPNESS]
        drawn = [("best", int(graspness.argmax()))] if graspness.any() else []
        for low, high in RANGES:
            inside = np.flatnonzero((graspness >= low) & (graspness < high))
            if len(inside):
                drawn.append(("labelled", int(rng.choice(inside))))
        grasps = as_grasps(points, normals, rows, item)
        for kind, row in drawn:
            yield item, kind, float(graspness[row]), attempt(gripper, grasps, row, item)
            shaken = attempt(gripper, grasps, row, item, rng)
            yield item, f"{kind}, shaken", float(graspness[row]), shaken
        tried = random_grasp(points, normals, item, Surroundings.of(world, fields, index), rng)
        if tried is not None:
            row, random = tried
            grasps = as_grasps(points[row : row + 1], normals[row : row + 1], random[None], item)
            yield item, "random", 0.0, attempt(gripper, grasps, 0, item)


def as_grasps(points: np.ndarray, normals: np.ndarray, rows: np.ndarray, item: WorldObject) -> Grasps:
    """What the runtime makes of labels: grasps in the object's frame."""
    signal = np.concatenate([normals, np.zeros((len(points), 1)), rows], axis=1).astype(np.float32)
    return decode_grasps(signal, points.astype(np.float32), np.full(len(points), item.object_id))


def attempt(
    gripper: GraspTrials,
    grasps: Grasps,
    row: int,
    item: WorldObject,
    shake: np.random.Generator | None = None,
) -> Trial:
    """One trial; with `shake` the pose has a random error of SHAKE_MM and SHAKE_DEGREES along and about every axis."""
    rotation, origin = grasps.rotation[row].astype(np.float64), grasps.translation[row] * 1000
    if shake is not None:
        error = np.radians(shake.normal(0, SHAKE_DEGREES, 3))
        rotation = rotation @ Rotation.from_rotvec(error).as_matrix()
        origin = origin + shake.normal(0, SHAKE_MM, 3)
    pose = np.eye(4)
    pose[:3, :3] = item.pose[:3, :3] @ rotation
    pose[:3, 3] = (item.pose[:3, :3] @ origin + item.pose[:3, 3]) / 1000
    return gripper.try_grasp(pose, float(grasps.width[row]), float(grasps.depth[row]), item.object_id)


def random_grasp(
    points: np.ndarray,
    normals: np.ndarray,
    item: WorldObject,
    surroundings: Surroundings,
    rng: np.random.Generator,
) -> tuple[int, np.ndarray] | None:
    """Row of a surface point and (10,) a grasp there that an untaught gripper might try; None where none fits.

    Up to 30 degrees off the normal, any closing direction, centred and opened as the object wants it, free of
    collision: the first of RANDOM_TRIES random ones, all looked at together.
    """
    rows = rng.integers(0, len(points), RANDOM_TRIES)
    outward = normals[rows] + np.tan(np.radians(30)) * rng.uniform(-1, 1, (RANDOM_TRIES, 3)) / np.sqrt(3)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    closing = np.cross(outward, rng.normal(size=(RANDOM_TRIES, 3)))
    closing /= np.linalg.norm(closing, axis=1, keepdims=True)
    depth = rng.uniform(5, 35, RANDOM_TRIES)
    tensors = (torch.tensor(v, dtype=torch.float32) for v in (points[rows], -outward, closing, depth, depth))
    poses = Poses(*tensors)
    contact = pad_contact(surroundings.own, poses)
    width = 2 * (torch.maximum(contact.upper, -contact.lower) + SIDE_CLEARANCE_MM)
    possible = contact.touched & (width > 0) & (width <= MAX_OPENING_MM)
    poses = replace(poses, width=torch.where(possible, width, MAX_OPENING_MM))
    fits = (possible & surroundings.free(poses)).numpy().nonzero()[0]
    if len(fits) == 0:
        return None
    first = fits[0]
    label = np.zeros(GRASP_CHANNELS, np.float32)
    label[CLOSING], label[APPROACH] = closing[first], outward[first]
    label[DEPTH], label[WIDTH] = depth[first] / MAX_DEPTH_MM, float(width[first]) / MAX_OPENING_MM
    return int(rows[first]), label


def summarise(trials: list[Executed]) -> list[harness.Figure]:
    def rate(name: str, chosen: list[Executed], better: str = "higher", asked: float | None = None) -> None:
        if chosen:
            held = float(np.mean([t.trial.outcome == HELD for t in chosen]))
            figures.append(
                harness.figure(f"{name} ({len(chosen)} grasps)", 100 * held, "% hold", better, asked)
            )

    def of(kind: str) -> list[Executed]:
        return [t for t in trials if t.kind == kind]

    figures: list[harness.Figure] = []
    good = [t for t in of("labelled") if t.graspness >= GOOD]
    rate(f"labelled good, graspness >= {GOOD}", good, asked=90)
    for split in SPLITS:
        rate(f"  {split}", [t for t in good if t.split == split])
    for kind in SCENES:
        rate(f"  {kind}", [t for t in good if t.scene == kind])
    rate("best per object", of("best"), asked=90)
    rate("random, free of collision", of("random"), better="lower")
    for how in ("labelled", "labelled, shaken"):
        for low, high in RANGES:
            chosen = [t for t in of(how) if low <= t.graspness < high]
            rate(f"{how}, graspness {low:.2f} to {min(high, 1):.2f}", chosen)
    rate("best per object, shaken", of("best, shaken"))
    return figures


def report(trials: list[Executed]) -> None:
    """Outcomes by kind of grasp, and the families whose good labels fail most."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    failures: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for t in trials:
        outcomes[t.kind][t.trial.outcome] += 1
        if t.kind == "labelled" and t.graspness >= GOOD:
            totals[t.family] += 1
            failures[t.family] += t.trial.outcome != HELD
    for name, counts in sorted(outcomes.items()):
        print(f"{name:18s} " + ", ".join(f"{outcome} {n}" for outcome, n in counts.most_common()))
    print(
        "good labels that failed, by family: "
        + ", ".join(f"{f} {n}/{totals[f]}" for f, n in failures.most_common() if n)
    )


if __name__ == "__main__":
    main()
