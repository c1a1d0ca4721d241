"""A free-floating two-finger parallel gripper in MuJoCo, and trials of grasps with it.

Geometry in the grasp's frame (x approach, y closing, z height; network.md, "Grasp refinement"): two fingers 10 mm
thick and 20 mm high reach from -20 mm to the grasp's depth; the palm joins them from -30 to -20 mm. As in that model,
the fingers are as long as the grasp's depth wants them: a trial sets their length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.physics import MM, body_name, load_mujoco, quaternion, world_spec

if TYPE_CHECKING:
    import mujoco

    from zerograsp_edge.runtime.simulation.world import World

FINGER_THICKNESS_MM, FINGER_HEIGHT_MM = 10.0, 20.0
FINGER_REAR_MM, PALM_REAR_MM = -20.0, -30.0
MAX_OPENING_MM, MAX_DEPTH_MM = 100.0, 40.0
APPROACH_MM = 80.0  # the gripper comes straight in from here
GRIP_FORCE_N = 25.0
PAD_FRICTION = 0.9  # rubber on most things
LIFT_MM, HELD_MM = 100.0, 80.0

TIMESTEP_S = 0.002
_CLOSE_S, _SQUEEZE_S, _LIFT_S, _HOLD_S = 0.4, 0.15, 0.5, 0.5
_APPROACH_STEP_MM = 4.0
TOUCH_MM = 0.3  # deeper contact on the way in is a collision
# The fingers' target when closed: they press until the force limit, whatever is between them.
PAST_CLOSED_MM = 15.0
PEAK_SPEED = 1.875  # of `smooth`
_STIFFNESS, _DAMPING = 4000.0, 60.0  # N/m, N s/m
BASE, _TARGET, FINGERS = "gripper", "gripper_target", ("gripper_upper_finger", "gripper_lower_finger")
# Gripper geoms meet everything but each other: (a.contype & b.conaffinity) | (b.contype & a.conaffinity).
_CONTYPE, _CONAFFINITY = 2, 1

HELD, MISSED, SLIPPED, COLLIDED = "held", "missed", "slipped", "collided"
OUTCOMES = (HELD, MISSED, SLIPPED, COLLIDED)


@dataclass(frozen=True)
class Trial:
    """How a grasp went.

    Attributes:
        outcome: "held": the object is between both fingers and lifted by HELD_MM or more after the hold;
            "collided": the open gripper touched something on its way in; "missed": the fingers closed without
            touching the object from both sides; "slipped": they touched it, and lost it.
        lifted_mm: how far the object's centre rose.
        moved_others_mm: the farthest that the centre of another object moved.
        met: name of the body or geom that the gripper collided with; empty without a collision.
    """

    outcome: str
    lifted_mm: float
    moved_others_mm: float
    met: str = ""


def add_gripper(spec: mujoco.MjSpec) -> None:
    """Adds the gripper, parked 2 m above the world's origin: a base welded to a mocap body, and two coupled fingers."""
    mujoco = load_mujoco()
    height = 2.0
    spec.worldbody.add_body(name=_TARGET, mocap=True, pos=[0, 0, height])
    base = spec.worldbody.add_body(
        name=BASE,
        pos=[0, 0, height],
        gravcomp=1,
        mass=1.0,
        ipos=[-0.03, 0, 0],
        inertia=[5e-3] * 3,
        explicitinertial=True,
    )
    base.add_freejoint(name=BASE)
    solid = {
        "type": mujoco.mjtGeom.mjGEOM_BOX,
        "contype": _CONTYPE,
        "conaffinity": _CONAFFINITY,
        "condim": 4,
        "friction": [PAD_FRICTION, 0.005, 0.0001],
        "priority": 1,  # the pads' friction counts, not the object's
        "solref": [0.006, 1.0],
        "solimp": [0.95, 0.99, 0.001, 0.5, 2.0],
        "rgba": [0.25, 0.25, 0.28, 1.0],
    }
    # Compiled at their largest, so that the bounding volumes fit every size that a trial sets.
    base.add_geom(
        name=BASE,
        pos=[(PALM_REAR_MM + FINGER_REAR_MM) / 2 * MM, 0, 0],
        size=_palm_half(MAX_OPENING_MM) * MM,
        **solid,
    )
    x, half = _finger_extent(MAX_DEPTH_MM)
    for name, side in zip(FINGERS, (1.0, -1.0), strict=True):
        finger = base.add_body(
            name=name, gravcomp=1, mass=0.1, ipos=[0, 0, 0], inertia=[1e-4] * 3, explicitinertial=True
        )
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            limited=True,
            range=[0, (MAX_OPENING_MM / 2 + 2) * MM],
        )
        finger.add_geom(
            name=name, pos=[x * MM, side * FINGER_THICKNESS_MM / 2 * MM, 0], size=half * MM, **solid
        )
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=_STIFFNESS, kv=_DAMPING)
        actuator.forcelimited = True
        actuator.forcerange = [-GRIP_FORCE_N, GRIP_FORCE_N]
    coupling = spec.add_equality(
        name="gripper_coupling", type=mujoco.mjtEq.mjEQ_JOINT, name1=FINGERS[0], name2=FINGERS[1]
    )
    coupling.data[:5] = [0, 1, 0, 0, 0]
    coupling.solref = [0.005, 1.0]
    weld = spec.add_equality(
        name="gripper_weld",
        type=mujoco.mjtEq.mjEQ_WELD,
        objtype=mujoco.mjtObj.mjOBJ_BODY,
        name1=BASE,
        name2=_TARGET,
    )
    weld.data[:11] = [
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        1,
    ]  # anchor, relative position and quaternion, torque scale
    weld.solref = [0.006, 1.0]
    weld.solimp = [0.98, 0.999, 0.001, 0.5, 2.0]
    # With fewer, squeezed objects shoot out of the fingers.
    spec.option.iterations = max(spec.option.iterations, 100)
    # Flat pads on flat faces need more than one contact point per pair of geoms. MuJoCo 4 always finds them.
    spec.option.enableflags |= int(getattr(mujoco.mjtEnableBit, "mjENBL_MULTICCD", 0))


class MountedGripper:
    """The gripper of a compiled model: where it is, how large, what it touches.

    Args:
        model: of a specification that `add_gripper` was given.
        data: its state.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        self.fingers = [model.body(name).id for name in FINGERS]
        self.bodies = [model.body(BASE).id, *self.fingers]
        self._mocap = model.body(_TARGET).mocapid[0]
        self._free = model.joint(BASE).qposadr[0]
        self._slides = [model.joint(name).qposadr[0] for name in FINGERS]
        self.actuators = [model.actuator(name).id for name in FINGERS]

    @property
    def opening(self) -> float:
        """Between the fingers' inner faces, m."""
        return float(self._data.qpos[self._slides].sum())

    @property
    def target(self) -> np.ndarray:
        """(4, 4) world <- base, m: what the weld pulls the gripper to."""
        pose = np.eye(4)
        load_mujoco().mju_quat2Mat(turn := np.empty(9), self._data.mocap_quat[self._mocap])
        pose[:3, :3], pose[:3, 3] = turn.reshape(3, 3), self._data.mocap_pos[self._mocap]
        return pose

    @target.setter
    def target(self, pose: np.ndarray) -> None:
        self._data.mocap_pos[self._mocap] = pose[:3, 3]
        self._data.mocap_quat[self._mocap] = quaternion(pose[:3, :3])

    def pose(self) -> np.ndarray:
        """(4, 4) world <- base, m; the data must be forward-computed."""
        pose = np.eye(4)
        pose[:3, :3] = self._data.xmat[self.bodies[0]].reshape(3, 3)
        pose[:3, 3] = self._data.xpos[self.bodies[0]]
        return pose

    def place(self, pose: np.ndarray, half_opening: float) -> None:
        """Put the gripper there, at rest or not, with its target; m."""
        self.target = pose
        self._data.qpos[self._free : self._free + 3] = pose[:3, 3]
        self._data.qpos[self._free + 3 : self._free + 7] = quaternion(pose[:3, :3])
        self._data.qpos[self._slides] = half_opening

    def open_palm(self, width: float) -> None:
        """The palm is as wide as the gripper is open, mm."""
        self._model.geom(BASE).size = _palm_half(width) * MM

    def set_finger_depth(self, depth: float) -> None:
        """Fingers reach to `depth` beyond the base's origin, 0 to MAX_DEPTH_MM; mm."""
        x, half = _finger_extent(depth)
        for name in FINGERS:
            self._model.geom(name).size = half * MM
            self._model.geom(name).pos[0] = x * MM

    def contacts(self) -> list[tuple[int, int, int, float]]:
        """Of every contact of the gripper its number, both geoms, and the distance, m, negative in contact."""
        contacts = self._data.contact
        if len(contacts.geom) == 0:
            return []
        touching = np.isin(self._model.geom_bodyid[contacts.geom], self.bodies).any(axis=1)
        return [
            (int(i), int(contacts.geom[i, 0]), int(contacts.geom[i, 1]), float(contacts.dist[i]))
            for i in np.flatnonzero(touching)
        ]

    def other(self, a: int, b: int) -> int:
        """Of a contact's two geoms the one that is not the gripper's."""
        return b if self._model.geom_bodyid[a] in self.bodies else a

    def grips(self, body: int) -> bool:
        """Whether a body touches both fingers."""
        owner = self._model.geom_bodyid
        pairs = {frozenset((int(owner[a]), int(owner[b]))) for _, a, b, _ in self.contacts()}
        return all(frozenset((finger, body)) in pairs for finger in self.fingers)


class GraspTrials:
    """Tries grasps in a world. The model is compiled once; every trial starts from the world as it was given.

    Args:
        world: objects at rest.
        spec: of the same world, if it carries more than objects (a camera, say); changed by adding the gripper.
    """

    def __init__(self, world: World, spec: mujoco.MjSpec | None = None) -> None:
        mujoco = load_mujoco()
        spec = world_spec(world, timestep=TIMESTEP_S) if spec is None else spec
        add_gripper(spec)
        self.world = world
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._bodies = {o.object_id: self.model.body(body_name(o.object_id)).id for o in world.objects}
        self._gripper = MountedGripper(self.model, self.data)

    def try_grasp(self, pose: np.ndarray, width_m: float, depth_m: float, object_id: int) -> Trial:
        """Go in along the approach, close, lift straight up by LIFT_MM, hold half a second.

        Args:
            pose: (4, 4) world <- grasp frame, metres; x is the approach, y the closing direction.
            width_m: opening between the fingers' inner faces, 0 .. 0.1 m.
            depth_m: how far the finger tips reach beyond the origin, 0 .. 0.04 m.
            object_id: the object that shall be held.

        Raises:
            ValueError: a pose that is not rigid, a width or depth the gripper does not have, an unknown object.
        """
        self._check(pose, width_m, depth_m, object_id)
        mujoco, model, data = load_mujoco(), self.model, self.data
        self._gripper.open_palm(width_m / MM)
        self._gripper.set_finger_depth(depth_m / MM)
        mujoco.mj_resetData(model, data)
        mujoco.mj_fwdPosition(model, data)
        start = data.xipos.copy()
        met = self._move_in(pose, width_m)
        if met:
            return Trial(COLLIDED, 0.0, 0.0, met)
        body = self._bodies[object_id]
        opened, closed = width_m / 2, -PAST_CLOSED_MM * MM
        self._run(_CLOSE_S, lambda s: data.ctrl.fill(opened + s * (closed - opened)))
        self._run(_SQUEEZE_S)
        gripped = self._gripper.grips(body)
        start_pose = self._gripper.target

        def lift(progress: float) -> None:
            lifted = start_pose.copy()
            lifted[2, 3] += LIFT_MM * MM * smooth(progress)
            self._gripper.target = lifted

        self._run(_LIFT_S, lift)
        self._run(_HOLD_S)
        lifted = float(data.xipos[body, 2] - start[body, 2]) / MM
        others = [b for b in self._bodies.values() if b != body]
        moved = max((float(np.linalg.norm(data.xipos[b] - start[b])) / MM for b in others), default=0.0)
        if lifted >= HELD_MM and self._gripper.grips(body):
            return Trial(HELD, lifted, moved)
        return Trial(SLIPPED if gripped else MISSED, lifted, moved)

    def _check(self, pose: np.ndarray, width_m: float, depth_m: float, object_id: int) -> None:
        rotation = np.asarray(pose)[:3, :3] if np.shape(pose) == (4, 4) else np.zeros((3, 3))
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or np.linalg.det(rotation) < 0:
            raise ValueError(f"expected a rigid (4, 4) pose, world <- grasp in metres, got\n{pose}")
        for name, value, limit in (("width", width_m, MAX_OPENING_MM), ("depth", depth_m, MAX_DEPTH_MM)):
            if not 0 <= value <= limit * MM + 1e-6:
                raise ValueError(f"expected a {name} of 0 .. {limit * MM} m, got {value}")
        if object_id not in self._bodies:
            raise ValueError(f"expected an object of the world ({sorted(self._bodies)}), got {object_id}")

    def _move_in(self, pose: np.ndarray, width_m: float) -> str:
        """Bring the open gripper in; what it touched on its way, empty if nothing.

        Nothing else moves while it touches nothing, so places along the way stand for the motion.
        """
        mujoco = load_mujoco()
        for back in np.append(np.arange(APPROACH_MM, 0, -_APPROACH_STEP_MM), 0.0):
            behind = np.array(pose, np.float64)
            behind[:3, 3] -= back * MM * behind[:3, 0]
            self._gripper.place(behind, width_m / 2)
            mujoco.mj_fwdPosition(self.model, self.data)
            for _, a, b, distance in self._gripper.contacts():
                if distance < -TOUCH_MM * MM:
                    return str(self.model.geom(self._gripper.other(a, b)).name)
        self.data.ctrl[:] = width_m / 2
        return ""

    def _run(self, seconds: float, control: Callable[[float], object] | None = None) -> None:
        """Simulate; `control` is called before every step with the progress, 0 to 1."""
        mujoco = load_mujoco()
        steps = round(seconds / TIMESTEP_S)
        for step in range(steps):
            if control is not None:
                control((step + 1) / steps)
            mujoco.mj_step(self.model, self.data)


def try_grasp(world: World, pose: np.ndarray, width_m: float, depth_m: float, object_id: int) -> Trial:
    """One grasp in a world; see `GraspTrials.try_grasp`, which is faster for many."""
    return GraspTrials(world).try_grasp(pose, width_m, depth_m, object_id)


def smooth(progress: float) -> float:
    """0..1 at 0..1 of the time, the smoothest motion between two rests: 10 s^3 - 15 s^4 + 6 s^5.

    Its greatest speed is PEAK_SPEED times the mean one.
    """
    return progress**3 * (10 - 15 * progress + 6 * progress**2)


def _palm_half(width: float) -> np.ndarray:
    """(3,) half edges of the palm, mm."""
    return np.array(
        [(FINGER_REAR_MM - PALM_REAR_MM) / 2, width / 2 + FINGER_THICKNESS_MM, FINGER_HEIGHT_MM / 2]
    )


def _finger_extent(depth: float) -> tuple[float, np.ndarray]:
    """x of a finger's middle and (3,) its half edges, mm."""
    half = np.array([(depth - FINGER_REAR_MM) / 2, FINGER_THICKNESS_MM / 2, FINGER_HEIGHT_MM / 2])
    return (depth + FINGER_REAR_MM) / 2, half
