"""The native kernels beside their peers: octree and convolution (ocnn), occlusion field (plain port)."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

from harness import Figure, main
from parts import convolution, occlusion, octree


def figures(quick: bool) -> list[Figure]:
    return [*octree.figures(quick), *occlusion.figures(quick), *convolution.figures(quick)]


if __name__ == "__main__":
    main("kernels", __doc__ or "", figures)
