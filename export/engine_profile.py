"""Sizes that a bundle's engines are built for: the range of every dynamic dimension of every stage.

The largest sizes follow from the bundle's limits, as the buffers of `zerograsp_edge.runtime.network` do. TensorRT
chooses its kernels for a typical size in between, which is measured: one frame runs on the CPU and the sizes of its
tensors are written down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from zerograsp_edge.runtime.bundle import Bundle, BundleError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.network import node_limits
from zerograsp_edge.runtime.verify import reference_frame

# The frame that is typical unless the bundle's own is larger.
TYPICAL_WIDTH, TYPICAL_HEIGHT, TYPICAL_OBJECTS = 640, 480, 5

Sizes = dict[str, dict[str, int]]
"""Stage to dimension to size."""


class Range(NamedTuple):
    """Sizes of a dimension that an engine accepts, and the one that it is fastest for."""

    smallest: int
    typical: int
    largest: int


def dimensions(bundle: Bundle, stage: str) -> dict[str, list[tuple[str, int]]]:
    """Names of a stage's dynamic dimensions, each with the inputs and axes where it occurs."""
    found: dict[str, list[tuple[str, int]]] = {}
    for tensor in bundle.manifest["stages"][stage]["inputs"]:
        for axis, size in enumerate(tensor["shape"]):
            if isinstance(size, str):
                found.setdefault(size, []).append((tensor["name"], axis))
    return found


def size_limits(bundle: Bundle) -> dict[str, dict[str, tuple[int, int]]]:
    """Smallest and largest size of every dimension of every stage.

    A depth's nodes come in eights, one for every child of a split node above; smallest and largest sizes keep to that,
    or TensorRT would find them contradictory.
    """
    g, limits = bundle.geometry, bundle.limits
    splits = {d: most // 8 for d, most in node_limits(g, limits).items()}  # split nodes of depth d - 1
    full_rows = (limits.max_objects << (3 * g.min_lod)) + (2 * g.residual_blocks + 1) ** 3
    multiple = g.image_multiple
    height, width = (-(-n // multiple) * multiple for n in (limits.max_height, limits.max_width))
    encoder = {
        "V": (1, 8 * splits[g.max_lod]),
        "B": (1, limits.max_objects),
        "H": (1, limits.max_height),
        "W": (1, limits.max_width),
    }
    for d in g.depths:
        encoder[f"N{d}"] = (8, 8 * splits[d])
        encoder[f"S{d - 1}"] = (1, splits[d])
    found = {
        "image_encoder": {"H": (multiple, height), "W": (multiple, width)},
        "octree_encoder": encoder,
        f"decoder_{g.min_lod}": {f"N{g.min_lod}": (8, 8 * splits[g.min_lod]), "R": (1, full_rows)},
    }
    for d in g.depths:
        if d > g.min_lod:
            found[f"decoder_{d}"] = {
                "P": (1, full_rows if d == g.min_lod + 1 else 8 * splits[d - 1]),
                "S": (1, splits[d]),
                "N": (8, 8 * splits[d]),
                "M": (8, 8 * splits[d]),
            }
    return found


def typical_sizes(bundle: Bundle, frame: Frame | None = None) -> Sizes:
    """Sizes of all dynamic dimensions in one frame, run on the CPU.

    Args:
        bundle: what to run.
        frame: what it sees; by default `typical_frame`.
    """
    from zerograsp_edge.runtime.pipeline import Pipeline

    pipeline = Pipeline(bundle, backend="onnxruntime")
    executor: Any = pipeline.executor
    run = executor.run
    sizes: Sizes = {}

    def record(stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        sizes[stage] = {
            name: inputs[places[0][0]].shape[places[0][1]]
            for name, places in dimensions(bundle, stage).items()
        }
        run(stage, inputs, outputs)

    executor.run = record
    pipeline(frame or typical_frame(bundle))
    return sizes


def typical_frame(bundle: Bundle) -> Frame:
    """The bundle's reference frame, or a simulated one when that is smaller than cameras deliver."""
    limits = bundle.limits
    width, height = min(TYPICAL_WIDTH, limits.max_width), min(TYPICAL_HEIGHT, limits.max_height)
    frame = reference_frame(bundle)
    if frame.height >= height and frame.width >= width:
        return frame
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

    objects = min(TYPICAL_OBJECTS, limits.max_objects)
    return SimulatedCamera(seed=7, num_objects=objects, width=width, height=height).read()


def stage_ranges(bundle: Bundle, typical: Sizes) -> dict[str, dict[str, Range]]:
    """Stage to dimension to range.

    Raises:
        BundleError: a stage has a dimension that this version does not know, or a typical size is beyond its range.
    """
    limits = size_limits(bundle)
    found: dict[str, dict[str, Range]] = {}
    for stage in bundle.stages:
        found[stage] = {}
        for name in dimensions(bundle, stage):
            if name not in limits.get(stage, {}):
                raise BundleError(
                    f"{bundle.path}: {stage} has a dimension {name} that this version does not know; "
                    "export the bundle again"
                )
            smallest, largest = limits[stage][name]
            size = typical[stage][name]
            if not smallest <= size <= largest:
                raise BundleError(
                    f"{bundle.path}: dimension {name} of {stage}: expected {smallest} to {largest} "
                    f"(the bundle's limits), a typical frame has {size}; export with larger limits"
                )
            found[stage][name] = Range(smallest, size, largest)
    return found


def tensor_shapes(bundle: Bundle, stage: str, ranges: dict[str, Range]) -> dict[str, tuple[Any, Any, Any]]:
    """Smallest, typical and largest shape of every input that has a dynamic dimension."""
    found: dict[str, tuple[Any, Any, Any]] = {}
    for tensor in bundle.manifest["stages"][stage]["inputs"]:
        shape = tensor["shape"]
        if any(isinstance(size, str) for size in shape):
            smallest, typical, largest = (
                tuple(ranges[size][i] if isinstance(size, str) else size for size in shape) for i in range(3)
            )
            found[tensor["name"]] = (smallest, typical, largest)
    return found
