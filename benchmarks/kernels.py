"""The native kernels beside their peers: octree, convolution (ocnn), occlusion field (plain port), grasps (NumPy)."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

from harness import Figure, main
from parts import convolution, grasp, occlusion, octree


def figures(quick: bool) -> list[Figure]:
    parts = (octree, occlusion, grasp, convolution)
    return [figure for part in parts for figure in part.figures(quick)]


if __name__ == "__main__":
    main("kernels", __doc__ or "", figures)
