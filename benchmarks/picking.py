"""How many objects a gripper picks, by method: simulated scenes of a single object, clutter and a bin pile.

Every method gets the same seeded scenes, a fresh copy each, with the same camera, depth noise and mask noise; even
scene numbers have trained families, odd ones families never trained on. It works through a scene with one attempt per
object: a new frame, then of the objects not tried yet the proposal with the best score; approach in a straight line
from 0.1 m, close, lift, hold, carry to the drop zone. "Per object" is the share of the scene's objects that end in
the drop zone; "per attempt" the share of executed attempts whose object does. The world persists: what an attempt
pushes stays pushed. Touching something on the way in is no failure by itself; an attempt that touched and failed is
called collided. "ours, grasp loop" leaves all of that to the product's own loop instead, which verifies every pick by
the gripper and a new frame, and tries an object again elsewhere when it failed. Picks per hour: simulated robot time
(without waiting for the computer) plus measured perception time.

Results are kept scene by scene, so that a run can be stopped and continued:

    python benchmarks/picking.py --scenes 100 --methods ours unrefined top-down
    python benchmarks/picking.py --scenes 100 --report
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch  # noqa: F401  before OpenGL: Mesa and PyTorch's compiler each bring an LLVM, and in this order both work
from harness import CACHE, report
from parts import picking_table
from parts.picking_loop import LIMITS, clear_with_loop
from parts.picking_methods import Oracle, Ours, chance, top_down
from parts.picking_scene import KINDS, Method, work_through
from peers.contact_graspnet import ContactGraspNet, Unavailable
from rich.console import Console

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
from zerograsp_edge.runtime.grasp.constraints import Support
from zerograsp_edge.runtime.grasp.gripper import SIMULATED
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.simulation.scenes import SceneKind

OURS, NETWORK, UNREFINED = "ours", "ours, network's grasps only", "ours, unrefined"
LOOP = "ours, grasp loop"
ORACLE, CGN, TOP_DOWN, CHANCE = "oracle", "Contact-GraspNet", "top-down", "random"
METHODS = (OURS, LOOP, NETWORK, UNREFINED, ORACLE, CGN, TOP_DOWN, CHANCE)
VERSION = 1  # of the scenes and of how an attempt goes: results of another one are not mixed in
Worker = Callable[[SceneKind, int], dict[str, Any]]
with suppress(ImportError):  # PyTorch's compiler, which a peer loads late, for the same reason
    import triton.runtime  # noqa: F401
SUPPORT = Support(clearance=0.002, thickness=0.006)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    console = Console(stderr=True)
    store = Store(options.results)
    made: dict[str, Worker] = {}
    skipped: dict[str, str] = {}
    # Scene by scene, so that a run that is stopped has all methods on the same scenes.
    steps = [
        (i, kind, name) for i in range(options.scenes) for kind in options.kinds for name in options.methods
    ]
    for index, kind, name in [] if options.report else steps:
        tag = tag_of(name, options.bundle)
        if name in skipped or (kind, index, tag) in store:
            continue
        try:
            if name not in made:
                made[name] = worker(name, options.bundle, options.threads)
        except Unavailable as reason:
            skipped[name] = str(reason)
            console.print(f"{name}: skipped: {reason}")
            continue
        record = made[name](kind, index)
        store.add(record | {"method": name, "tag": tag})
        console.print(f"{kind} {index}, {name}: {len(record['picked'])} of {record['objects']} picked")
    wanted = {tag_of(name, options.bundle) for name in options.methods}
    records = [
        r for r in store.records
        if r["tag"] in wanted and r["kind"] in options.kinds and r["index"] < options.scenes
    ]  # fmt: skip
    table = picking_table.markdown(records, METHODS)
    report(
        "picking", picking_table.figures(records, OURS, METHODS), options.json, tables=table, skipped=skipped
    )
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, usage = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="benchmarks/picking.py", description=description, epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one scene of two kinds, the same code: for CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write figures and tables to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables to FILE")
    parser.add_argument("--scenes", type=int, metavar="N", help="of each kind; default 100")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {'; '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=EDGE_MODEL, help="default: the shipped edge model")
    parser.add_argument("--threads", type=int, default=1, help="of the pipeline")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="where results are kept, scene by scene"
    )
    parser.add_argument("--report", action="store_true", help="only show what there is")
    options = parser.parse_args(arguments)
    options.scenes = options.scenes or (1 if options.quick else 100)
    options.kinds = options.kinds or (["single", "clutter"] if options.quick else list(KINDS))
    options.results = options.results or CACHE / ("picking_quick" if options.quick else "picking")
    return options


def worker(name: str, bundle: Path, threads: int) -> Worker:
    """What works through a scene and returns its record. Raises Unavailable."""
    if name == LOOP:
        pipeline = Pipeline(load_bundle(bundle), threads=threads, refine=refinement(name))
        return lambda kind, index: clear_with_loop(kind, index, pipeline)
    anew = method(name, bundle, threads)
    return lambda kind, index: work_through(kind, index, anew())


def method(name: str, bundle: Path, threads: int) -> Callable[[], Method]:
    """Makes the method anew for every scene; what is slow to load is shared. Raises Unavailable."""
    if name == ORACLE:
        return Oracle
    if name in (TOP_DOWN, CHANCE):
        return lambda: top_down if name == TOP_DOWN else chance
    made = (
        ContactGraspNet()
        if name == CGN
        else Ours(Pipeline(load_bundle(bundle), threads=threads, refine=refinement(name)))
    )
    return lambda: made


def refinement(name: str) -> RefineConfig | None:
    if name == UNREFINED:
        return None
    antipodal = None if name == NETWORK else AntipodalConfig()
    return RefineConfig(gripper=SIMULATED, support=SUPPORT, antipodal=antipodal)


@cache
def tag_of(name: str, bundle: Path) -> str:
    """A method with all that its results depend on."""
    what = [name, VERSION]
    if name == LOOP:
        what += [repr(LIMITS)]
    if name in (OURS, LOOP, NETWORK, UNREFINED):
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        what += [repr(refinement(name)), json.dumps(manifest, sort_keys=True)]
    return f"{name} {hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"


class Store:
    """Records of scenes, one line of JSON each, appended as they come; several processes may write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "scenes.jsonl"
        self.records: list[dict[str, Any]] = []
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self.records = [
                json.loads(line) for line in lines if line.endswith("}")
            ]  # the last may be cut off
        self._done = {(r["kind"], r["index"], r["tag"]) for r in self.records}

    def __contains__(self, key: tuple[str, int, str]) -> bool:
        return key in self._done

    def add(self, record: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        self._done.add((record["kind"], record["index"], record["tag"]))


if __name__ == "__main__":
    main()
