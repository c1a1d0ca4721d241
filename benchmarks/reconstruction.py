"""How well objects are reconstructed and grasped on held-out scenes, beside references that need no network.

200 scenes that no training has seen, 100 with the families of the training scenes and 100 with families never trained
on; other seeds than any training or validation scene. They are made on the first run and kept. Every method gets the
same noisy depth and the same noisy masks; the truth is the exact surface. A prediction is the centres of the finest
voxels moved by -normal * sdf. An object that a method gives nothing for counts with the worst score.

    python benchmarks/reconstruction.py --markdown table.md
    python benchmarks/reconstruction.py --ablation "no occlusion field=plain.zgb" --grasps
"""

from __future__ import annotations

import os

# Scenes are shared out to processes; each computes on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from harness import CACHE, report
from parts import grasp_success, reconstruction_table
from parts.grasp_success import Trial
from parts.reconstruction import OURS, Predictor, SceneScore, run_pipeline, score_scene
from rich.console import Console
from rich.progress import track

from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.runtime.models import EDGE_MODEL

SPLITS = ("test_trained", "test_unseen")
SCENES = {False: 100, True: 6}  # per split, by --quick

_networks: dict[str, Predictor] = {}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    folder = options.scenes / ("labelled" if options.grasps else "unlabelled")
    scenes = held_out_scenes(folder, SCENES[options.quick], options.jobs, options.grasps)
    bundles = {OURS: options.bundle} | dict(options.ablation)
    context = multiprocessing.get_context("spawn")  # OpenMP does not survive a fork
    with ProcessPoolExecutor(options.jobs, context, _load_networks, (bundles,)) as pool:
        jobs = pool.map(_score, [(*scene, options.grasps) for scene in scenes])
        results = list(track(jobs, "scoring", len(scenes), console=Console(stderr=True)))
    scores = [score for score, _ in results]
    records = [record for score in scores for record in score.records]
    figures = [*reconstruction_table.figures(scores)]
    if options.grasps:
        figures += grasp_success.figures([trial for _, trials in results for trial in trials])
    table = reconstruction_table.markdown(records)
    reasons = [reason for score in scores for reason in score.reasons]
    report(
        "reconstruction", figures, options.json, tables=table, by=reconstruction_table.breakdown(records),
        missed=[{"method": method, "object": i, "reason": reason} for method, i, reason in reasons],
    )  # fmt: skip
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.records:
        reconstruction_table.write_records(records, options.records)
    print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, usage = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="benchmarks/reconstruction.py", description=description, epilog=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few scenes, the same code: for CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write figures and tables to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables to FILE")
    parser.add_argument("--records", type=Path, metavar="FILE", help="every object's scores, as CSV")
    parser.add_argument("--bundle", type=Path, default=EDGE_MODEL, help="default: the shipped edge model")
    parser.add_argument(
        "--ablation", type=_named_path, action="append", default=[], metavar="NAME=BUNDLE",
        help="a further bundle to measure, with the name of its rows; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--scenes", type=Path, default=CACHE / "scenes", metavar="FOLDER", help="where scenes are kept"
    )
    parser.add_argument(
        "--grasps", action="store_true", help="also execute the best grasp of every object in MuJoCo"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    return parser.parse_args(arguments)


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path) or name == OURS:
        raise argparse.ArgumentTypeError(
            f"expected NAME=BUNDLE with a name other than '{OURS}', got '{text}'"
        )
    return name, Path(path)


def held_out_scenes(folder: Path, count: int, jobs: int, labels: bool) -> list[tuple[str, Path]]:
    """Split and file of the scenes, seeds 0 .. count - 1 of each split; those that are missing are made first.

    A seed that gives no scene is replaced by the next one after the last. Grasp labels take half the time and serve
    only as the grasps' ceiling.
    """
    from zerograsp_edge.export.training.generate import Generation, generate, scene_path

    console = Console(stderr=True)
    scenes = []
    for split in SPLITS:
        seeds = list(range(count))
        while True:

            def tell(state: Generation, split: str = split) -> None:
                console.print(f"{split}: {state}", end="\r")

            failed = generate(folder, split, seeds, 1, jobs, labels=labels, progress=tell).failed
            if not failed:
                break
            console.print(f"{split}: seeds {sorted(failed)} give no scene and are replaced")
            following = max(seeds) + 1
            seeds = [s for s in seeds if s not in failed] + list(range(following, following + len(failed)))
        scenes += [(split, scene_path(folder, split, seed)) for seed in seeds]
    return scenes


def _load_networks(bundles: dict[str, Path]) -> None:
    """Start of a process: every bundle's pipeline, on one thread."""
    from zerograsp_edge.runtime.bundle import load_bundle
    from zerograsp_edge.runtime.pipeline import Pipeline

    _networks.update(
        (name, run_pipeline(Pipeline(load_bundle(path), "onnxruntime", threads=1)))
        for name, path in bundles.items()
    )


def _score(scene: tuple[str, Path, bool]) -> tuple[SceneScore, list[Trial]]:
    split, path, grasps = scene
    sample = SceneSample.load(path)
    score = score_scene(sample, split, _networks)
    trials = grasp_success.run(sample, split, score.grasps, score.asked) if grasps else []
    return score, trials


if __name__ == "__main__":
    main()
