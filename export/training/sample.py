"""One training scene on disk: views of a settled world and, per object, its surface with grasp labels.

A scene is one compressed `.npz` file. Targets depend on the network's voxel grid, so they are not stored: `targets.py`
makes them from the dense surface samples when a view is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError

FORMAT = 1
# Columns of `grasps`, the network's signal after normal and signed distance (network.md, "Output at depth 9").
GRASPNESS, QUALITY, CLOSING, APPROACH, DEPTH, WIDTH = 0, 1, slice(2, 5), slice(5, 8), 8, 9
GRASP_CHANNELS = 10


class SampleError(ZeroGraspError, ValueError):
    """A scene file that is damaged or of another format."""


@dataclass(frozen=True, eq=False)
class ObjectSurface:
    """The complete surface of one object, in the object's frame.

    Attributes:
        object_id: its value in the masks of every view, from 1.
        family: shape family.
        pose: (4, 4) float64 world <- object, mm.
        points: (n, 3) float32 mm, evenly spread, about 1 mm apart.
        normals: (n, 3) float32, outward, unit length.
        grasps: (n, 10) float32 at the points: graspness 0..1, quality 0..1, closing direction (3, unit, sign
            free), approach *normal* (3, unit: minus the direction in which the gripper moves), standoff depth in
            units of 0.04 m, width in units of 0.1 m. A point without a valid grasp has graspness and quality 0,
            and zeros in the other columns.
    """

    object_id: int
    family: str
    pose: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    grasps: np.ndarray


@dataclass(frozen=True, eq=False)
class View:
    """One camera's picture of the scene, as measured, with what is needed to judge it.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 mm with sensor noise; 0 is invalid. Stored in steps of 1/8 mm.
        mask: (H, W) uint8 instance mask with segmentation noise; 0 is the background.
        intrinsics: (3, 3) float32, pixels.
        camera_pose: (4, 4) float64 world <- camera (optical frame), mm.
        visible_fraction: (objects,) float32: visible pixels / pixels it would cover if it stood alone, from the exact
            masks, in the order of the scene's objects.
    """

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    intrinsics: np.ndarray
    camera_pose: np.ndarray
    visible_fraction: np.ndarray


@dataclass(frozen=True, eq=False)
class SceneSample:
    """A scene: where it came from, its objects, its views."""

    seed: int
    support_kind: str
    objects: tuple[ObjectSurface, ...]
    views: tuple[View, ...]

    def save(self, path: str | Path) -> None:
        """Write the scene to `path` (.npz), atomically."""
        arrays: dict[str, np.ndarray] = {
            "format": np.array(FORMAT),
            "seed": np.array(self.seed),
            "support_kind": np.array(self.support_kind),
            "object_ids": np.array([o.object_id for o in self.objects], np.int32),
            "families": np.array([o.family for o in self.objects]),
            "poses": np.array([o.pose for o in self.objects], np.float64),
            "points": np.concatenate([o.points for o in self.objects]).astype(np.float32),
            # Directions and labels need three digits.
            "normals": np.concatenate([o.normals for o in self.objects]).astype(np.float16),
            "grasps": np.concatenate([o.grasps for o in self.objects]).astype(np.float16),
            "counts": np.array([len(o.points) for o in self.objects], np.int64),
            "rgb": np.stack([v.rgb for v in self.views]),
            "depth": np.stack([_depth_to_eighths(v.depth) for v in self.views]),
            "mask": np.stack([v.mask for v in self.views]),
            "intrinsics": np.stack([v.intrinsics for v in self.views]).astype(np.float32),
            "camera_poses": np.stack([v.camera_pose for v in self.views]),
            "visible_fractions": np.stack([v.visible_fraction for v in self.views]).astype(np.float32),
        }
        path = Path(path)
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> SceneSample:
        """Read a scene. Raises SampleError when the file is not one."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            if int(arrays["format"]) != FORMAT:
                raise SampleError(
                    f"{path}: expected scene format {FORMAT}, got {int(arrays['format'])}; generate the scenes again"
                )
            ends = np.cumsum(arrays["counts"])
            slices = [slice(end - n, end) for end, n in zip(ends, arrays["counts"], strict=True)]
            objects = tuple(
                ObjectSurface(
                    int(arrays["object_ids"][i]),
                    str(arrays["families"][i]),
                    arrays["poses"][i],
                    arrays["points"][rows],
                    arrays["normals"][rows].astype(np.float32),
                    arrays["grasps"][rows].astype(np.float32),
                )
                for i, rows in enumerate(slices)
            )
            views = tuple(
                View(
                    arrays["rgb"][i],
                    arrays["depth"][i].astype(np.float32) / 8,
                    arrays["mask"][i],
                    arrays["intrinsics"][i],
                    arrays["camera_poses"][i],
                    arrays["visible_fractions"][i],
                )
                for i in range(len(arrays["rgb"]))
            )
            return cls(int(arrays["seed"]), str(arrays["support_kind"]), objects, views)
        except SampleError:
            raise
        except Exception as error:
            raise SampleError(
                f"{path}: expected a training scene (.npz), could not read it ({error})"
            ) from error


def _depth_to_eighths(depth: np.ndarray) -> np.ndarray:
    """(H, W) mm to uint16 eighths of a millimetre; farther than 8191 mm counts as invalid."""
    eighths = np.rint(np.nan_to_num(depth, nan=0, posinf=0, neginf=0) * 8)
    return np.where((eighths > 0) & (eighths < 65536), eighths, 0).astype(np.uint16)
