"""Results as files that other tools read: points.ply, mesh.glb, grasps.npz, overlay.png, timings.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zerograsp_edge.runtime.errors import OutputError
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.overlay import draw_overlay, object_colour
from zerograsp_edge.runtime.result import Result

# One point of points.ply: name, NumPy type, PLY type.
_PROPERTIES = (
    *((name, "<f4", "float") for name in ("x", "y", "z", "nx", "ny", "nz")),
    *((name, "u1", "uchar") for name in ("red", "green", "blue")),
    ("object_id", "<i4", "int"),
)
_POINT = np.dtype([(name, kind) for name, kind, _ in _PROPERTIES])
# glTF: y up, z towards the viewer; camera optical frame: y down, z away.
_GLTF_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])


def write_outputs(folder: str | Path, frame: Frame, result: Result, *, mesh: bool = True) -> tuple[Path, ...]:
    """Write every output of one frame into a folder (made if needed); each file appears whole or not at all.

    Args:
        mesh: also extract and write `mesh.glb`, which needs the extra `mesh`.

    Returns:
        The files written; `mesh.glb` is not among them when no object has a surface.

    Raises:
        OutputError: disk full, no permission, or `folder` is a file.
        MissingExtra: `mesh` and scikit-image is not installed; raised before anything is written.
    """
    if mesh:
        from zerograsp_edge.runtime.extras import require

        require("skimage.measure", "mesh", "write mesh.glb")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output folder {folder} cannot be made: {error.strerror or error}") from error
    writers: dict[str, Callable[[Path], None]] = {
        "points.ply": lambda path: write_points(path, result),
        "grasps.npz": lambda path: write_grasps(path, result),
        "overlay.png": lambda path: write_overlay(path, frame, result),
        "timings.json": lambda path: write_timings(path, result),
    }
    if mesh and any(len(item.points) and len(item.mesh().faces) for item in result.objects):
        writers["mesh.glb"] = lambda path: write_mesh(path, result)
    for name, write in writers.items():
        write(folder / name)
    return tuple(folder / name for name in writers)


def write_points(path: Path, result: Result) -> None:
    """Binary PLY of all surface points, metres, camera optical frame: position, normal, colour, object_id."""
    rows = np.empty(sum(len(item.points) for item in result.objects), _POINT)
    start = 0
    for item in result.objects:
        part = rows[start : start + len(item.points)]
        start += len(item.points)
        for axis, (position, normal) in enumerate((("x", "nx"), ("y", "ny"), ("z", "nz"))):
            part[position] = item.points[:, axis] / 1000
            part[normal] = item.normals[:, axis]
        part["red"], part["green"], part["blue"] = object_colour(item.index)
        part["object_id"] = item.object_id
    properties = [f"property {kind} {name}" for name, _, kind in _PROPERTIES]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment metres, camera optical frame: x right, y down, z forward",
        f"element vertex {len(rows)}",
        *properties,
        "end_header",
    ]
    with replacing(path) as file:
        file.write(("\n".join(header) + "\n").encode())
        file.write(rows.tobytes())


def write_mesh(path: Path, result: Result) -> None:
    """GLB with one mesh per object, named `object_<id>`, metres, turned to glTF's axes (y up).

    Raises:
        MissingExtra: trimesh or scikit-image is not installed.
        OutputError: no object has a surface to mesh.
    """
    trimesh = require("trimesh", "mesh", "write a mesh")

    scene = trimesh.Scene()
    for item in result.objects:
        if len(item.points) == 0 or len(item.mesh().faces) == 0:
            continue
        mesh = item.mesh().copy()
        mesh.apply_scale(1e-3)
        colour = [*(np.array(object_colour(item.index)) / 255) ** 2.2, 1.0]  # glTF wants linear colour
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=colour, metallicFactor=0.0, roughnessFactor=0.6
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(mesh, node_name=f"object_{item.object_id}", geom_name=f"object_{item.object_id}")
    if not scene.geometry:
        raise OutputError(
            f"{path} was not written: none of the {len(result.objects)} objects has a surface to mesh"
        )
    scene.apply_transform(_GLTF_FROM_CAMERA)
    with replacing(path) as file:
        file.write(scene.export(file_type="glb"))


def write_grasps(path: Path, result: Result) -> None:
    """NPZ of all grasps, best first, metres, camera optical frame.

    Holds the arrays of `Grasps`, the 17-column rows of the GraspNet API as `graspnet`, and `metadata` (JSON).
    """
    grasps = result.grasps
    metadata = {
        "frame": result.name,
        "timestamp_s": result.timestamp,
        "units": "metres",
        "coordinates": "camera optical frame: x right, y down, z forward",
        "rotation_columns": ["approach", "closing", "height"],
        "graspnet_columns": "score, width, height, depth, rotation row-major (9), translation (3), object_id",
        "objects": [item.object_id for item in result.objects],
        "skipped": {str(item.object_id): item.reason for item in result.skipped},
        "notes": list(result.notes),
    }
    arrays = {name: getattr(grasps, name) for name in grasps.__dataclass_fields__}
    with replacing(path) as file:
        np.savez(file, **arrays, graspnet=grasps.to_graspnet(), metadata=np.array(json.dumps(metadata)))


def write_overlay(path: Path, frame: Frame, result: Result) -> None:
    """PNG, see `draw_overlay`."""
    import cv2

    ok, data = cv2.imencode(".png", draw_overlay(frame, result)[:, :, ::-1])
    if not ok:
        raise OutputError(f"{path} was not written: OpenCV cannot encode PNG")
    with replacing(path) as file:
        file.write(data.tobytes())


def write_timings(path: Path, result: Result) -> None:
    """JSON: milliseconds by stage, and what was found."""
    content = {
        "frame": result.name,
        "milliseconds": {stage: round(value, 3) for stage, value in result.timings.items()},
        "objects": len(result.objects),
        "skipped": len(result.skipped),
        "points": sum(len(item.points) for item in result.objects),
        "grasps": len(result.grasps),
    }
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends without error, and else leaves no trace.

    The content is gathered in memory first, so an error of its maker is never mistaken for one of the disk.
    """
    content = BytesIO()
    yield content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
