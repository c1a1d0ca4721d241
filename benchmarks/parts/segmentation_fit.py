"""Fits the weights of the geometric segmenter's scores on simulated scenes and prints
`runtime/segmentation/weights.py`.

Logistic regressions on seeds 900 to 999 of the split `val`, which neither the benchmark nor any training uses:

    PYTHONPATH=benchmarks python benchmarks/parts/segmentation_fit.py > runtime/segmentation/weights.py
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from harness import CACHE
from parts.segmentation import TruthScene, load_scenes

from zerograsp_edge.runtime.segmentation import boundary, geometric

SEEDS = range(900, 1000)
HEADING = "Weights of the boundary scores: `benchmarks/parts/segmentation_fit.py` fits them and prints this file."
_PURE = 0.7  # share of a piece's, and
_PURE_REGION = 0.6  # of a region's pixels that must be of one object for it to teach anything


class Recorder(geometric.GeometricSegmenter):
    """Keeps what the regressions need of each frame."""

    seen: dict[str, Any]

    def _regions(self, graph: Any, score: Any, features: Any, background: Any) -> np.ndarray:
        self.seen = {"graph": graph, "score": score, "features": features, "background": background}
        return super()._regions(graph, score, features, background)

    def _merged(self, graph: Any, score: Any, features: Any, regions: Any) -> np.ndarray:
        self.seen.setdefault("first regions", (graph, score, features, regions))
        return super()._merged(graph, score, features, regions)

    def _describe(self, graph: Any, score: Any, pieces: Any, region: Any, *more: Any) -> Any:
        result = super()._describe(graph, score, pieces, region, *more)
        self.seen["objects"] = (region, *result)
        return result


def main() -> None:
    scenes = load_scenes(CACHE / "segmentation", ["val"], SEEDS, 1, lambda _: None)
    for name, examples in (("BOUNDARY", _boundaries), ("REGION", _regions), ("OBJECT", _objects)):
        rows, labels, weights = (np.concatenate(part) for part in zip(*_collect(scenes, examples), strict=True))
        # In place: what comes next is fitted to the scores that these weights give.
        getattr(geometric, f"{name}_WEIGHTS")[:] = logistic_regression(rows, labels, weights)
    print(f'"""{HEADING}"""\n')
    print("from __future__ import annotations\n\nimport numpy as np\n")
    print("# In the order of boundary.FEATURES, REGION_FEATURES and OBJECT_FEATURES.\n# fmt: off")
    for name in ("BOUNDARY", "REGION", "OBJECT"):
        values = ", ".join(f"{value:.3f}" for value in getattr(geometric, f"{name}_WEIGHTS"))
        print(f"{name}_WEIGHTS = np.array([")
        print(*textwrap.wrap(values, 100, initial_indent="    ", subsequent_indent="    "), sep="\n")
        print("])")
    print("# fmt: on")


def logistic_regression(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Newton's method; a little ridge keeps what the data does not decide near 0."""
    solution = np.zeros(rows.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-rows @ solution))
        gradient = rows.T @ (weights * (labels - chance)) - ridge * solution
        curvature = (rows * (weights * chance * (1 - chance))[:, None]).T @ rows + ridge * np.eye(rows.shape[1])
        solution += np.linalg.solve(curvature, gradient)
    return solution


def _collect(scenes: list[TruthScene], examples: Any) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    segmenter = Recorder(threads=1)
    found = []
    for scene in scenes:
        segmenter.reset()
        segmenter.seen = {}
        segmenter(scene.frame)
        if "objects" in segmenter.seen:
            found.append(examples(segmenter.seen, scene.truth))
    return found


def _overlap(groups: np.ndarray, seen: dict[str, Any], truth: np.ndarray) -> np.ndarray:
    """(groups, 256) pixels that groups of pieces share with each true id; pieces of group -1 are left out."""
    pieces = seen["graph"].pieces
    stride = truth.shape[0] // pieces.shape[0]
    small = truth[::stride, ::stride][: pieces.shape[0], : pieces.shape[1]]
    of = np.where(pieces >= 0, np.append(groups, -1)[pieces], -1)
    count = int(groups.max()) + 1
    return np.bincount(of[of >= 0].astype(np.int64) * 256 + small[of >= 0], minlength=256 * count).reshape(-1, 256)


def _boundaries(seen: dict[str, Any], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    graph = seen["graph"]
    table = _overlap(np.arange(len(graph.statistics)), seen, truth)
    own, pure = table.argmax(axis=1), table.max(axis=1) / np.maximum(table.sum(axis=1), 1)
    i, j = graph.edges.T
    # Among themselves, pieces of the background teach nothing about objects.
    use = ((own[i] > 0) | (own[j] > 0)) & (np.minimum(pure[i], pure[j]) > _PURE)
    return seen["features"][use], (own[i] == own[j])[use].astype(float), np.sqrt(graph.edge_statistics[use, 0])


def _regions(seen: dict[str, Any], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    graph, score, features, regions = seen["first regions"]
    pairs, rows = boundary.region_boundaries(graph, regions, score, features)
    table = _overlap(regions, seen, truth)
    size = table.sum(axis=1)
    own, pure = table.argmax(axis=1), table.max(axis=1) / np.maximum(size, 1)
    i, j = pairs.T
    smaller = np.minimum(size[i], size[j])
    use = ((own[i] > 0) | (own[j] > 0)) & (np.minimum(pure[i], pure[j]) > _PURE_REGION) & (smaller >= 4)
    return rows[use], (own[i] == own[j])[use].astype(float), np.sqrt(smaller[use]) / 10


def _objects(seen: dict[str, Any], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    region, pixels, extents, rows = seen["objects"]
    config = geometric.SegmentationConfig()
    table = _overlap(region, seen, truth)
    labels = table[:, 1:].max(axis=1) > 0.5 * table.sum(axis=1)
    stride = truth.shape[0] // seen["graph"].pieces.shape[0]
    use = (pixels * stride**2 >= config.min_pixels) & (extents[:, 2] <= config.max_object)
    return rows[use], labels[use].astype(float), np.ones(np.count_nonzero(use))


if __name__ == "__main__":
    main()
