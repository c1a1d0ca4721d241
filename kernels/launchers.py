"""The CUDA kernels from Python: the launchers of `cuda/api.h`, through ctypes.

    launch = Launchers(path_of_the_library)
    launch.node_geometry(stream, keys=keys.address, n=count, n_count=None, ...)

Arguments go by the names that `api.h` gives them: device memory as integer addresses, None for null. A
launcher only enqueues on the stream; what it promises is in kernels/README.md. `launch.workspace("grow",
nodes=...)` is `zg_cuda_grow_workspace`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any

__all__ = ["LaunchError", "Launchers", "Status"]

_PREFIX = "zg_cuda_"
_INVALID_VALUE = 1  # cudaErrorInvalidValue: zg_cuda_error() explains

# `name*` is a pointer; the others are numbers: i (int32), n (int64), z (size_t), f (float). The stream comes
# last everywhere.
LAUNCHERS = {
    "points_from_depth": (
        "depth* labels* i:height i:width i:objects inverse* f:grid_size f:z_margin f:half_extent f:margin "
        "f:min_depth valid_labels* points* object* n:max_points z_min* counts* object_counts* "
        "object_valid_counts* status* workspace* z:workspace_bytes"
    ),
    "relabel": "values* i:value_bytes n:n n_count* i:low table* i:table_size labels* status*",
    "keep_objects": "counts* i:objects i:minimum table* kept* kept_count*",
    "adjacency": "labels* i:height i:width i:objects adjacent* status*",
    "pad_image": "rgb* i:height i:width i:padded_height i:padded_width padded*",
    "build_octree": (
        "points* object* n:n n_count* i:objects i:depth i:full_depth nodes* n:max_voxels keys* children* "
        "split_neighbours* voxel* counts* status* workspace* z:workspace_bytes"
    ),
    "voxel_features": (
        "i:image_type image_features* i:channels i:padded_height i:padded_width points* voxel* n:n n_count* "
        "n:voxels voxels_count* intrinsics* z_min* f:half_extent i:height i:width i:depth i:type features* "
        "status* workspace* z:workspace_bytes"
    ),
    "node_geometry": "keys* n:n n_count* i:depth f:half_extent z_min* centres* positions* object*",
    "active_grid": (
        "keys* n:n n_count* i:objects i:depth i:radius rows* neighbours* source* n:max_rows i:packed "
        "counts* status* workspace* z:workspace_bytes"
    ),
    "grow": (
        "i:type logits* n:row_count n:stride rows* forced* keys* n:nodes nodes_count* i:keep_one children* "
        "split_rows* n:max_splits next_keys* counts* status* workspace* z:workspace_bytes"
    ),
    "split_neighbours_from_parents": (
        "parents* n:parent_splits parent_splits_count* children* split_neighbours* n:splits"
    ),
    "split_neighbours_of_grid": "i:depth n:objects children* split_neighbours* n:splits",
    "decode": (
        "i:type signal* n:rows n:stride n:first_channel split_rows* keys* n:n n_count* i:objects i:depth "
        "f:half_extent z_min* points* normals* sdf* nodes* rotation* translation* width* grasp_depth* "
        "score* object* first* status*"
    ),
    "visible_points": (
        "depth* i:height i:width intrinsics* i:stride f:min_depth plane* first* points* n:max_points "
        "counts* status* workspace* z:workspace_bytes"
    ),
    "refine_grasps": (
        "rotation* translation* width* depth* n:n n_count* points* n:point_count points_count* hand* "
        "i:lengths i:min_inner_points refined_width* refined_depth* inner_points* fit* status* workspace* "
        "z:workspace_bytes"
    ),
}
WORKSPACES = {
    "points_from_depth": "i:height i:width",
    "build_octree": "n:points n:max_nodes",
    "voxel_features": "n:points n:voxels",
    "active_grid": "i:objects i:depth",
    "grow": "n:nodes",
    "visible_points": "i:height i:width i:stride",
    "refine_grasps": "n:points",
}
_TYPES: dict[str, tuple[Any, int, int]] = {
    "i": (ctypes.c_int32, -(2**31), 2**31 - 1),
    "n": (ctypes.c_int64, -(2**63), 2**63 - 1),
    "z": (ctypes.c_size_t, 0, 2**64 - 1),
    "f": (ctypes.c_float, 0, 0),
    "*": (ctypes.c_void_p, 0, 2**64 - 1),
}


class Status:
    """Bits of a launcher's `status` (ZgStatus) that a user can do something about."""

    SPLITS_EXCEEDED = 1
    POINTS_EXCEEDED = 64
    ROWS_EXCEEDED = 256
    SIGNAL_NOT_FINITE = 1024


class LaunchError(RuntimeError):
    """A launcher refused its arguments, or a kernel could not be launched."""


def parameters(signature: str) -> list[tuple[str, str]]:
    """Name and kind of every parameter of a signature above."""
    return [(word[:-1], "*") if word.endswith("*") else (word[2:], word[0]) for word in signature.split()]


class Launchers:
    """The functions of a library, by their names in `api.h` without `zg_cuda_`; see the module.

    Args:
        path: of a library that exports them, `libzerograsp_trt.so` or `libzerograsp_cuda.so`.

    Raises:
        ImportError: it cannot be loaded, or it lacks one of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path))
            self._describe = _declared(library, "describe", ctypes.c_char_p, [ctypes.c_int32])
            self._error = _declared(library, "error", ctypes.c_char_p, [])
            self._functions = {name: self._launcher(library, name) for name in LAUNCHERS}
            self._workspaces = {
                name: _function(library, f"{name}_workspace", WORKSPACES[name], ctypes.c_size_t)
                for name in WORKSPACES
            }
        except (OSError, AttributeError) as error:
            raise ImportError(
                f"the CUDA kernels in {path} cannot be used on this machine ({error})"
            ) from error

    def __getattr__(self, name: str) -> Callable[..., None]:
        try:
            return self._functions[name]
        except KeyError:
            raise AttributeError(f"no launcher {name!r}; there are {', '.join(LAUNCHERS)}") from None

    def workspace(self, name: str, **sizes: int) -> int:
        """Bytes of scratch memory that a launcher needs for these sizes."""
        function, convert = self._workspaces[name]
        return int(function(*convert(sizes)))

    def describe(self, status: int) -> str:
        """What the lowest bit of a status means."""
        return self._describe(status).decode()

    def _launcher(self, library: ctypes.CDLL, name: str) -> Callable[..., None]:
        function, convert = _function(library, name, LAUNCHERS[name], ctypes.c_int, ctypes.c_void_p)

        def launch(stream: int, **arguments: Any) -> None:
            if code := function(*convert(arguments), stream):
                why = self._error().decode() if code == _INVALID_VALUE else f"CUDA error {code}"
                raise LaunchError(f"{name}: {why}")

        return launch


def _declared(library: ctypes.CDLL, name: str, result: Any, arguments: list[Any]) -> Any:
    function = getattr(library, _PREFIX + name)
    function.restype, function.argtypes = result, arguments
    return function


def _function(
    library: ctypes.CDLL, name: str, signature: str, result: Any, *last: Any
) -> tuple[Any, Callable[[dict[str, Any]], list[Any]]]:
    """A function of the library and what turns its named arguments into positional ones."""
    named = parameters(signature)
    known = frozenset(parameter for parameter, _ in named)
    kinds = [(parameter, kind, *_TYPES[kind][1:]) for parameter, kind in named]

    def convert(arguments: dict[str, Any]) -> list[Any]:
        if arguments.keys() != known:
            wrong = ", ".join(sorted(arguments.keys() ^ known))
            raise TypeError(
                f"{name}: expected the arguments {', '.join(p for p, _ in named)}; missing or unknown: {wrong}"
            )
        values: list[Any] = []
        for parameter, kind, low, high in kinds:
            value = arguments[parameter]
            if kind == "f":
                value = float(value)
            elif not (value is None and kind == "*"):
                value = index(value)
                if not low <= value <= high:  # ctypes would cut it silently
                    raise ValueError(f"{name}: {parameter}: expected {low} to {high}, got {value}")
            values.append(value)
        return values

    types = [_TYPES[kind][0] for _, kind in named]
    return _declared(library, name, result, [*types, *last]), convert
