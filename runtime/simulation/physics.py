"""Worlds for the physics engine: MuJoCo bodies from objects and supports, and poses back.

Inside MuJoCo everything is metres, kilograms and seconds, in the world's axes; outside it stays millimetres.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.errors import MissingExtra, ZeroGraspError
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.simulation.solids import solid_of

if TYPE_CHECKING:
    import mujoco

    from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

MM = 1e-3
# Contacts that give way by a few hundredths of a millimetre under an object's weight; the time constant, 10 ms,
# is at least twice every time step in use, as MuJoCo asks.
CONTACT_SOLREF = [0.01, 1.0]
CONTACT_SOLIMP = [0.95, 0.99, 0.001, 0.5, 2.0]
# Of soft surfaces of household objects: torsional in metres, rolling in metres (unused with condim 4).
TORSIONAL_FRICTION, ROLLING_FRICTION = 0.005, 0.0001
SUPPORT_FRICTION = 0.8
# A sphere of 25 mm is then 0.2 mm too small at most.
_MOST_HULL_CORNERS = 512


class RenderError(ZeroGraspError, RuntimeError):
    """No offscreen OpenGL on this machine."""


OPENGL_REMEDY = (
    "install the libraries of EGL (sudo apt-get install libegl1 libgl1-mesa-dri) or OSMesa (libosmesa6), or name "
    "another way with the environment variable MUJOCO_GL (egl, osmesa, glfw)"
)


def load_mujoco() -> ModuleType:
    """The module `mujoco`.

    Raises:
        MissingExtra: it is not there; the message names the extra `sim`.
        RenderError: it is, and the way to OpenGL that MUJOCO_GL names is not, which it loads when it is imported.
    """
    try:
        return require("mujoco", "sim", "simulate")
    except MissingExtra:
        raise
    except Exception as error:
        way = os.environ.get("MUJOCO_GL", "")
        raise RenderError(f"MuJoCo cannot be loaded with MUJOCO_GL={way} ({error}); {OPENGL_REMEDY}") from error


def body_name(object_id: int) -> str:
    """Name of an object's body in the model."""
    return f"object_{object_id}"


def world_spec(world: World, *, timestep: float = 0.002, free: bool = True) -> mujoco.MjSpec:
    """The world as a MuJoCo specification, to be compiled, or first given a gripper or a camera.

    One body `object_<id>` per object with the mass and inertia of its closed mesh and its convex parts as
    collision geoms `object_<id>_part_<k>`; the support as static boxes `support_<k>` of the world body.

    Args:
        world: poses in mm.
        timestep: seconds.
        free: True gives every object a free joint; False fixes it where it stands.
    """
    mujoco = load_mujoco()
    spec = mujoco.MjSpec()
    spec.modelname = f"world_{world.seed}"
    option = spec.option
    option.timestep = timestep
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations = 100
    # An elliptic cone with stiff friction: objects held between fingers do not creep.
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    for index, box in enumerate(world.support):
        _add_support(spec, f"support_{index}", box)
    for item in world.objects:
        _add_object(spec, item, free)
    return spec


def object_poses(model: mujoco.MjModel, data: mujoco.MjData, world: World) -> np.ndarray:
    """(objects, 4, 4) float64 world <- object, mm, in the order of `world.objects`.

    `data` must be forward-computed, as it is after `mj_step` and `mj_forward`.
    """
    poses = np.tile(np.eye(4), (len(world.objects), 1, 1))
    for pose, item in zip(poses, world.objects, strict=True):
        body = model.body(body_name(item.object_id)).id
        pose[:3, :3] = data.xmat[body].reshape(3, 3)
        pose[:3, 3] = data.xpos[body] / MM
    return poses


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(4,) unit quaternion, w first, of a (3, 3) rotation."""
    result = np.empty(4)
    load_mujoco().mju_mat2Quat(result, np.ascontiguousarray(rotation, np.float64).ravel())
    return result / np.linalg.norm(result)


def _add_support(spec: mujoco.MjSpec, name: str, box: SupportBox) -> None:
    mujoco = load_mujoco()
    spec.worldbody.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=np.asarray(box.half, np.float64) * MM,
        pos=np.asarray(box.centre, np.float64) * MM,
        quat=quaternion(box.rotation),
        condim=4,
        friction=[SUPPORT_FRICTION, TORSIONAL_FRICTION, ROLLING_FRICTION],
        solref=CONTACT_SOLREF,
        solimp=CONTACT_SOLIMP,
    )


def _add_object(spec: mujoco.MjSpec, item: WorldObject, free: bool) -> None:
    mujoco = load_mujoco()
    name = body_name(item.object_id)
    solid = solid_of(item.shape)
    properties = solid.mesh.mass_properties  # of density 1 kg/mm^3; scaled below
    inertia = np.asarray(properties["inertia"]) * item.density * MM**5
    body = spec.worldbody.add_body(
        name=name,
        pos=item.pose[:3, 3] * MM,
        quat=quaternion(item.pose[:3, :3]),
        mass=float(properties["mass"]) * item.density * MM**3,
        ipos=np.asarray(properties["center_mass"]) * MM,
        fullinertia=inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
        explicitinertial=True,
    )
    if free:
        body.add_freejoint(name=name)
    for index, points in enumerate(solid.parts):
        part = f"{name}_part_{index}"
        spec.add_mesh(
            name=part,
            uservert=(points * MM).ravel(),
            maxhullvert=_MOST_HULL_CORNERS,
        )
        body.add_geom(
            name=part,
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=part,
            condim=4,
            friction=[item.friction, TORSIONAL_FRICTION, ROLLING_FRICTION],
            solref=CONTACT_SOLREF,
            solimp=CONTACT_SOLIMP,
        )
