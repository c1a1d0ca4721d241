"""What the pipeline returns: per object its reconstruction and its grasps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

    from zerograsp_edge.runtime.grasp.refine import Refinement
    from zerograsp_edge.runtime.segmentation import Segmentation

# Height of the gripper's fingers, the third column of GraspNet's row form (spec, "Grasp refinement").
FINGER_HEIGHT_M = 0.02


@dataclass(frozen=True, eq=False)
class Grasps:
    """Parallel-jaw grasps in one frame, struct of arrays.

    A grasp's axes are the columns of its rotation: x = approach, y = closing, z = height.

    Attributes:
        score: (G,) float32, higher is better.
        width: (G,) float32, opening, m.
        depth: (G,) float32, how far the fingers reach beyond the grasp point along the approach, m.
        rotation: (G, 3, 3) float32.
        translation: (G, 3) float32, m.
        object_id: (G,) int32, mask value of the object.
    """

    score: np.ndarray
    width: np.ndarray
    depth: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    object_id: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.score)
        for name, shape in (
            ("width", ()),
            ("depth", ()),
            ("rotation", (3, 3)),
            ("translation", (3,)),
            ("object_id", ()),
        ):
            actual = getattr(self, name).shape
            if actual != (count, *shape):
                raise ValueError(f"grasps: {name} must have shape {(count, *shape)}, got {actual}")

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> Grasps:
        """The grasps at a slice, a boolean mask or positions."""
        if isinstance(index, int | np.integer):
            raise TypeError(
                "index grasps with a slice, a mask or a list of positions; one grasp is grasps[i : i + 1]"
            )
        return Grasps(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def top(self, count: int) -> Grasps:
        """The `count` best by score, best first; of equal scores the one that came first."""
        return self[np.argsort(-self.score, kind="stable")[: max(count, 0)]]

    def poses(self) -> np.ndarray:
        """(G, 4, 4) float32 homogeneous poses, m."""
        poses = np.zeros((len(self), 4, 4), np.float32)
        poses[:, :3, :3] = self.rotation
        poses[:, :3, 3] = self.translation
        poses[:, 3, 3] = 1
        return poses

    def transformed(self, transform: np.ndarray) -> Grasps:
        """The grasps in another frame.

        Args:
            transform: (4, 4) rigid, target <- current, metres.
        """
        rotation, translation = (
            np.asarray(transform, np.float32)[:3, :3],
            np.asarray(transform, np.float32)[:3, 3],
        )
        return Grasps(
            self.score,
            self.width,
            self.depth,
            rotation @ self.rotation,
            self.translation @ rotation.T + translation,
            self.object_id,
        )

    def to_graspnet(self) -> np.ndarray:
        """(G, 17) float32 rows of the GraspNet API: score, width, height, depth, R by rows (9), t (3), id."""
        rows = np.empty((len(self), 17), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = self.score, self.width, FINGER_HEIGHT_M, self.depth
        rows[:, 4:13] = self.rotation.reshape(-1, 9)
        rows[:, 13:16] = self.translation
        rows[:, 16] = self.object_id
        return rows

    @staticmethod
    def from_graspnet(rows: np.ndarray) -> Grasps:
        """The inverse of `to_graspnet`; the height column is not kept."""
        rows = np.asarray(rows, np.float32)
        if rows.ndim != 2 or rows.shape[1] != 17:
            raise ValueError(f"GraspNet rows must have shape (G, 17), got {rows.shape}")
        return Grasps(
            score=rows[:, 0].copy(),
            width=rows[:, 1].copy(),
            depth=rows[:, 3].copy(),
            rotation=rows[:, 4:13].reshape(-1, 3, 3).copy(),
            translation=rows[:, 13:16].copy(),
            object_id=rows[:, 16].astype(np.int32),
        )

    @staticmethod
    def empty() -> Grasps:
        return Grasps.from_graspnet(np.empty((0, 17), np.float32))

    @staticmethod
    def concatenate(parts: Sequence[Grasps]) -> Grasps:
        """All grasps of the parts, in their order."""
        if not parts:
            return Grasps.empty()
        return Grasps(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in Grasps.__dataclass_fields__)
        )


@dataclass(frozen=True, eq=False)
class ObjectReconstruction:
    """The complete surface of one object, and its grasps.

    Attributes:
        object_id: mask value of the object.
        index: position among the frame's objects; the batch index in the octree's keys.
        points: (n, 3) float32 surface points, mm, camera optical frame; visible and hidden sides.
        normals: (n, 3) float32, unit, outward.
        sdf: (n,) float32, mm, signed distance of the node centre, positive outside: point = centre - normal
            * sdf.
        nodes: (n, 3) int32 voxel indices at the finest depth.
        origin: (3,) float32, mm, corner of voxel (0, 0, 0); the centre of voxel v is origin + (v + 0.5) *
            voxel_size.
        voxel_size: mm.
        grasps: grasps on this object, camera frame; after refinement best first.
    """

    object_id: int
    index: int
    points: np.ndarray
    normals: np.ndarray
    sdf: np.ndarray
    nodes: np.ndarray
    origin: np.ndarray
    voxel_size: float
    grasps: Grasps

    def mesh(self) -> trimesh.Trimesh:
        """Closed triangle mesh, mm, camera optical frame; computed on the first call, then kept.

        Raises:
            MissingExtra: scikit-image is not installed (extra `mesh`).
        """
        return self._mesh

    @cached_property
    def _mesh(self) -> trimesh.Trimesh:
        from zerograsp_edge.runtime.mesh import extract_mesh

        return extract_mesh(self.nodes, self.sdf, self.normals, self.origin, self.voxel_size)


@dataclass(frozen=True)
class SkippedObject:
    """An object of the mask that was not reconstructed, and why."""

    object_id: int
    reason: str


@dataclass(frozen=True, eq=False)
class Result:
    """Everything the pipeline found in one frame.

    Attributes:
        objects: the reconstructed objects, ascending by mask value.
        skipped: objects of the mask that could not be reconstructed.
        timings: milliseconds by stage, in order of execution.
        z_min: near end of the octree's cube on the optical axis, mm.
        name: the frame's name.
        timestamp: the frame's timestamp, s.
        notes: what a user should know, for example that every grasp of an object collides.
        refinement: how many grasps refinement removed, and why; None when it is off.
        segmentation: the mask and supports that the pipeline's segmenter found; None when the frame brought a mask.
    """

    objects: tuple[ObjectReconstruction, ...]
    skipped: tuple[SkippedObject, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    z_min: float = 0.0
    name: str = "frame"
    timestamp: float = 0.0
    notes: tuple[str, ...] = ()
    refinement: Refinement | None = None
    segmentation: Segmentation | None = None

    @cached_property
    def grasps(self) -> Grasps:
        """The grasps of all objects, best first."""
        every = Grasps.concatenate([item.grasps for item in self.objects])
        return every.top(len(every))
