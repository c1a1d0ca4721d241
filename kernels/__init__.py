"""The native core: octree construction, neighbours, growth and alignment, occlusion field, convolution,
grasp refinement, geometric segmentation.

Every function has a NumPy twin of the same name in `zerograsp_edge.kernels.reference`. Names are resolved on
first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

_MODULE_OF = {
    "ActiveGrid": "output_octree",
    "CapacityError": "checks",
    "Fit": "hand",
    "Growth": "output_octree",
    "Hand": "hand",
    "Octree": "octree",
    "PackedInt8": "convolution_int8",
    "PackedWeight": "convolution",
    "PieceGraph": "segmentation",
    "PointSet": "points",
    "RefinedGrasps": "hand",
    "ResidualWeights": "convolution",
    "Workspace": "workspace",
    "active_grid": "output_octree",
    "adjacency": "points",
    "align": "octree",
    "batch_statistics": "training",
    "build_octree": "octree",
    "contract_graph": "segmentation",
    "conv_weight_gradient": "training",
    "expand_labels": "segmentation",
    "expand_neighbours": "octree",
    "gather_rows": "training",
    "grid_conv": "convolution",
    "grid_weight_gradient": "training",
    "grow": "output_octree",
    "normalise": "training",
    "normalise_gradient": "training",
    "occlusion_field": "occlusion",
    "octree_conv": "convolution",
    "octree_conv_int8": "convolution_int8",
    "octree_downsample": "convolution",
    "octree_linear": "convolution",
    "octree_mlp": "convolution",
    "octree_residual": "convolution",
    "octree_upsample": "convolution",
    "planar_superpixels": "segmentation",
    "points_from_depth": "points",
    "reduce_depth": "segmentation",
    "refine_grasps": "grasp",
    "round_to_half": "half",
    "split_neighbours": "octree",
    "superpixel_graph": "segmentation",
    "suppress_grasps": "grasp",
    "voxel_features": "points",
    "widen_half": "half",
}

__all__ = ["ort_library", *sorted(_MODULE_OF)]


def ort_library() -> Path:
    """The ONNX Runtime custom-op library, for `SessionOptions.register_custom_ops_library`.

    Raises:
        ImportError: it was not built; the message says how to.
    """
    from zerograsp_edge.kernels.native import core

    # Beside the compiled module: in an editable install both lie apart from the sources.
    path = Path(core.__file__).with_name("libzerograsp_ort.so")
    if not path.is_file():
        raise ImportError(
            f"the custom-op library {path.name} is missing: it is built when the package is installed "
            "(`pip install .` in the repository; needs a C++17 compiler and CMake >= 3.18)"
        )
    return path


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
