"""Whether the gripper fits: its fingers and palm covered with spheres, compared with signed distances.

Every point of a finger or of the palm lies in a sphere, so a pose whose spheres are all clear of an object is free of
collision with it, with 2 to 3 mm to spare. The way in, straight along the approach, is covered more coarsely. The
boxes of the support are met exactly: there a millimetre decides whether a thin plate can be picked up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zerograsp_edge.export.training.distance_field import MARGIN_MM, DistanceField
from zerograsp_edge.runtime.simulation.gripper import (
    APPROACH_MM,
    FINGER_HEIGHT_MM,
    FINGER_REAR_MM,
    FINGER_THICKNESS_MM,
    MAX_OPENING_MM,
    PALM_REAR_MM,
)
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

_ALONG_FINGER_MM, _ALONG_PALM_MM = 6.0, 8.0
_FINGER_SAMPLES = 10  # at most 6 mm apart on a finger of up to 60 mm
_PALM_SAMPLES = 16  # at most 8 mm apart over 120 mm
_SIDE_MM = FINGER_HEIGHT_MM / 4  # two rows of spheres, each covering half the height
_CROSS_SECTION = np.hypot(FINGER_THICKNESS_MM / 2, _SIDE_MM)
FINGER_RADIUS_MM = float(np.hypot(_CROSS_SECTION, _ALONG_FINGER_MM / 2))
PALM_RADIUS_MM = float(np.hypot(_CROSS_SECTION, _ALONG_PALM_MM / 2))
_WAY_RADIUS_MM = 10.0
_SUPPORT_MARGIN_MM = 1.5
_WAY_IN_MM = np.arange(PALM_REAR_MM - 10, PALM_REAR_MM - APPROACH_MM - 1, -14.0)
# From the solid's surface to the farthest corner of the gripper at the start of its way in.
_GRIPPER_REACH_MM = float(np.hypot(APPROACH_MM - PALM_REAR_MM, MAX_OPENING_MM / 2 + FINGER_THICKNESS_MM))
assert max(FINGER_RADIUS_MM, PALM_RADIUS_MM, _WAY_RADIUS_MM) < MARGIN_MM


@dataclass(frozen=True, eq=False)
class Poses:
    """Gripper poses in an object's frame, mm: x approach (motion), y closing, z height.

    Attributes:
        origin, approach, closing: (n, 3) float32.
        depth: (n,) how far the finger tips reach beyond the origin.
        width: (n,) opening between the inner faces.
    """

    origin: torch.Tensor
    approach: torch.Tensor
    closing: torch.Tensor
    depth: torch.Tensor
    width: torch.Tensor

    def __len__(self) -> int:
        return len(self.origin)

    def __getitem__(self, rows: torch.Tensor) -> Poses:
        return Poses(
            self.origin[rows], self.approach[rows], self.closing[rows], self.depth[rows], self.width[rows]
        )

    def place(self, local: torch.Tensor) -> torch.Tensor:
        """(n, k, 3) points of the object's frame from (n, k, 3) points of the grasp's frame."""
        height = torch.linalg.cross(self.approach, self.closing)
        rotation = torch.stack([self.approach, self.closing, height], dim=1)
        return self.origin[:, None] + local @ rotation


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the gripper must not touch around one object: the others and the support, seen from its frame."""

    own: DistanceField
    others: tuple[
        tuple[DistanceField, torch.Tensor, torch.Tensor], ...
    ]  # field, rotation, translation: other <- own
    support: tuple[
        tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...
    ]  # half, rotation, translation: box <- own

    @classmethod
    def of(cls, world: World, fields: list[DistanceField], index: int) -> Surroundings:
        """Around `world.objects[index]`; `fields` has one per object."""
        target = world.objects[index]
        others = tuple(
            (field, *_relative(other.pose, target.pose))
            for field, other in zip(fields, world.objects, strict=True)
            if other is not target and _gap(other, target) < _GRIPPER_REACH_MM
        )
        support = tuple(
            (torch.tensor(box.half, dtype=torch.float32), *_relative(_box_pose(box), target.pose))
            for box in world.support
        )
        return cls(fields[index], others, support)

    def free(self, poses: Poses) -> torch.Tensor:
        """(n,) bool: the open gripper is clear of everything at the pose and on the way in."""
        alive = self._clear_of_support(poses).nonzero()[:, 0]
        # The parts that collide most often come first; what they rule out is not looked at again.
        for points, radius in (
            (_fingers, FINGER_RADIUS_MM),
            (_palm, PALM_RADIUS_MM),
            (_way_in, _WAY_RADIUS_MM),
        ):
            spheres = poses[alive].place(points(poses[alive]))
            alive = alive[self.own.distance(spheres).amin(dim=1) >= radius]
            for field, rotation, translation in self.others:
                spheres = poses[alive].place(points(poses[alive])) @ rotation.T + translation
                middle = spheres.mean(dim=1)
                size = (spheres - middle[:, None]).norm(dim=2).amax(dim=1)[:, None]
                near = ((middle > field.lower - size) & (middle < field.upper + size)).all(dim=1)
                clear = torch.ones(len(alive), dtype=torch.bool)
                clear[near] = field.distance(spheres[near]).amin(dim=1) >= radius
                alive = alive[clear]
        result = torch.zeros(len(poses), dtype=torch.bool)
        result[alive] = True
        return result

    def _clear_of_support(self, poses: Poses) -> torch.Tensor:
        """(n,) bool: swept fingers and palm are separated from every support box (separating axes: exact)."""
        alive = torch.arange(len(poses))
        axes = torch.stack(
            [poses.approach, poses.closing, torch.linalg.cross(poses.approach, poses.closing)], dim=2
        )
        boxes = _swept_boxes(poses)
        for half, rotation, translation in self.support:
            there = rotation @ axes[alive]  # box <- grasp
            origin = poses.origin[alive] @ rotation.T + translation
            clear = torch.ones(len(alive), dtype=torch.bool)
            for middle, size in boxes:
                clear[clear.clone()] = _separated(
                    origin[clear] + (there[clear] @ middle[alive[clear], :, None])[:, :, 0],
                    there[clear],
                    size[alive[clear]],
                    half + _SUPPORT_MARGIN_MM,
                )
            alive = alive[clear]
        result = torch.zeros(len(poses), dtype=torch.bool)
        result[alive] = True
        return result


def _swept_boxes(poses: Poses) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Middle and half edges, (n, 3) each, of both fingers and the palm with their way in, in the grasp's frame."""
    n = len(poses)
    tip, rear, palm = poses.depth, FINGER_REAR_MM - APPROACH_MM, PALM_REAR_MM - APPROACH_MM
    y = (poses.width + FINGER_THICKNESS_MM) / 2
    zero = torch.zeros(n)
    finger = torch.stack(
        [
            (tip - rear) / 2,
            torch.full((n,), FINGER_THICKNESS_MM / 2),
            torch.full((n,), FINGER_HEIGHT_MM / 2),
        ],
        dim=1,
    )
    bridge = torch.stack(
        [
            torch.full((n,), (FINGER_REAR_MM - palm) / 2),
            y + FINGER_THICKNESS_MM / 2,
            torch.full((n,), FINGER_HEIGHT_MM / 2),
        ],
        dim=1,
    )
    middle_x = (tip + rear) / 2
    return [
        (torch.stack([middle_x, y, zero], dim=1), finger),
        (torch.stack([middle_x, -y, zero], dim=1), finger),
        (torch.stack([torch.full((n,), (FINGER_REAR_MM + palm) / 2), zero, zero], dim=1), bridge),
    ]


def _separated(
    centre: torch.Tensor, rotation: torch.Tensor, size: torch.Tensor, half: torch.Tensor
) -> torch.Tensor:
    """(n,) bool: boxes at (n, 3) centres, (n, 3, 3) rotations with (n, 3) half edges miss the box of `half` at zero.

    Separating axis theorem: the faces' normals of both and the products of their edges.
    """
    result = (centre.abs() - half).amax(dim=1) > size.norm(dim=1)
    near = (~result).nonzero()[:, 0]
    centre, rotation, size = centre[near], rotation[near], size[near]
    # Parallel edges give a zero product; the small number keeps rounding from calling that a separation.
    extent = rotation.abs() + 1e-6
    own_face = centre.abs() > half + (extent @ size[:, :, None])[:, :, 0]
    along = (rotation.transpose(1, 2) @ centre[:, :, None])[:, :, 0]
    other_face = along.abs() > size + (extent.transpose(1, 2) @ half[:, None])[:, :, 0]
    apart = own_face.any(dim=1) | other_face.any(dim=1)
    result[near[apart]] = True
    near, centre, rotation, size, extent = (v[~apart] for v in (near, centre, rotation, size, extent))
    apart = torch.zeros(len(near), dtype=torch.bool)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        reach = half[j] * extent[:, k] + half[k] * extent[:, j]
        gap = (centre[:, k, None] * rotation[:, j] - centre[:, j, None] * rotation[:, k]).abs()
        for m in range(3):
            n, o = (m + 1) % 3, (m + 2) % 3
            width = size[:, n] * extent[:, i, o] + size[:, o] * extent[:, i, n]
            apart |= gap[:, m] > reach[:, m] + width
    result[near] = apart
    return result


def _fingers(poses: Poses) -> torch.Tensor:
    """(n, k, 3) sphere centres that cover both fingers, in the grasp's frame."""
    along = torch.linspace(0, 1, _FINGER_SAMPLES + 1)[:-1] + 0.5 / _FINGER_SAMPLES
    x = FINGER_REAR_MM + (poses.depth[:, None] - FINGER_REAR_MM) * along
    y = (poses.width + FINGER_THICKNESS_MM) / 2
    return torch.cat([_rows(x, (side * y)[:, None].expand_as(x)) for side in (-1, 1)], dim=1)


def _palm(poses: Poses) -> torch.Tensor:
    across = torch.linspace(-1, 1, _PALM_SAMPLES + 1)[:-1] + 1 / _PALM_SAMPLES
    y = across * (poses.width[:, None] / 2 + FINGER_THICKNESS_MM)
    return _rows(torch.full_like(y, (PALM_REAR_MM + FINGER_REAR_MM) / 2), y)


def _way_in(poses: Poses) -> torch.Tensor:
    """The volume behind the palm, through which fingers and palm arrive."""
    across = torch.linspace(-1, 1, 5)
    y = across * (poses.width[:, None] / 2 + FINGER_THICKNESS_MM / 2)
    x = torch.from_numpy(_WAY_IN_MM.astype(np.float32))
    local = torch.zeros(len(poses), len(x), len(across), 3)
    local[..., 0] = x[:, None]
    local[..., 1] = y[:, None]
    return local.reshape(len(poses), len(x) * len(across), 3)


def _rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, 2k, 3) from (n, k) x and y: one row of spheres in either half of the height."""
    return torch.cat(
        [torch.stack([x, y, torch.full_like(x, z)], dim=2) for z in (-_SIDE_MM, _SIDE_MM)], dim=1
    )


def _relative(there: np.ndarray, here: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation and translation there <- here of two (4, 4) poses in the world."""
    transform = np.linalg.inv(there) @ here
    return (
        torch.tensor(transform[:3, :3], dtype=torch.float32),
        torch.tensor(transform[:3, 3], dtype=torch.float32),
    )


def _box_pose(box: SupportBox) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = box.rotation, box.centre
    return pose


def _gap(a: WorldObject, b: WorldObject) -> float:
    """Free space between the bounding spheres, mm."""
    apart = float(np.linalg.norm(a.pose[:3, 3] - b.pose[:3, 3]))
    return apart - a.shape.bounding_radius - b.shape.bounding_radius
