"""Pictures of a world from any pinhole camera: colour, exact depth, exact instance masks (MuJoCo, offscreen).

Depth and mask come from one pass without antialiasing, so a pixel's value is that of the ray through its centre.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zerograsp_edge.runtime.simulation.physics import (
    MM,
    OPENGL_REMEDY,
    RenderError,
    load_mujoco,
    quaternion,
)
from zerograsp_edge.runtime.simulation.solids import solid_of
from zerograsp_edge.runtime.simulation.textures import PATTERNS, cube_map, square
from zerograsp_edge.runtime.simulation.world import SupportBox, World

if TYPE_CHECKING:
    import mujoco

Renderer = TypeVar("Renderer", bound="ModelRenderer")
NEAR_M, FAR_M = 0.05, 12.0
_SHOWN, _HIDDEN = 0, 5  # geom groups
_WHITE = [1.0, 1.0, 1.0, 1.0]


@dataclass(frozen=True, eq=False)
class Picture:
    """What an ideal camera sees.

    Attributes:
        rgb: (H, W, 3) uint8 sRGB.
        depth: (H, W) float32 mm along the optical axis, 0 where nothing is within 12 m.
        mask: (H, W) uint8 object ids, 0 elsewhere.
        visible_fraction: (objects,) float32 visible pixels / pixels covered if the object stood alone, both within
            the picture; 0 when it covers none, NaN when it was not asked for.
    """

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    visible_fraction: np.ndarray


class ModelRenderer:
    """Pictures of a compiled MuJoCo model, at whatever state its data are in; meshes and textures are uploaded once.

    Args:
        model, data: `data` must be forward-computed before a picture is taken.
        ids: (ngeom,) uint8, what each geom is in masks; 0 is nothing.
        width, height: picture size, pixels.

    Raises:
        RenderError: no offscreen OpenGL.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, ids: np.ndarray, width: int = 640, height: int = 480
    ) -> None:
        mujoco = load_mujoco()
        self.width, self.height = width, height
        self._model, self._data, self._ids = model, data, ids
        _gl_context(width, height).make_current()
        try:
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:  # GLFW without a display makes a context that is none
            raise RenderError(f"no offscreen OpenGL ({error}); {OPENGL_REMEDY}") from error
        # Reversed z keeps float32's precision at a distance.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(self._model, maxgeom=self._model.ngeom + 16)
        self._options = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def rgb(self, camera_pose: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 sRGB, from a camera as in `WorldRenderer.render`, in the light that is there."""
        self._update(camera_pose, intrinsics)
        return self._read(False)[0]

    def geometry(self, camera_pose: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth and mask only, as in Picture."""
        self._update(camera_pose, intrinsics)
        colour, window = self._read(True)
        index = colour[..., 0].astype(np.int32) + (colour[..., 1].astype(np.int32) << 8)
        of_geom = np.zeros(self._scene.ngeom + 1, np.uint8)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == load_mujoco().mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                of_geom[geom.segid + 1] = self._ids[geom.objid]
        # The inverse of OpenGL's perspective in reversed z: near is 1, far is 0.
        near, far = np.float64(np.float32(NEAR_M)), np.float64(np.float32(FAR_M))
        metres = near * far / (window.astype(np.float64) * (far - near) + near)
        depth = np.where(window > 0, metres / MM, 0).astype(np.float32)
        return depth, of_geom[index]

    def close(self) -> None:
        """Frees the uploaded model. Calling it twice is allowed."""
        self._context.free()

    def __enter__(self: Renderer) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _update(self, camera_pose: np.ndarray, intrinsics: np.ndarray) -> None:
        mujoco = load_mujoco()
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._options,
            None,
            mujoco.MjvCamera(),
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        fx, fy, cx, cy = (float(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        left, right = (-0.5 - cx) / fx, (self.width - 0.5 - cx) / fx
        for camera in self._scene.camera:
            camera.pos = camera_pose[:3, 3] * MM
            camera.forward, camera.up = camera_pose[:3, 2], -camera_pose[:3, 1]
            camera.frustum_near, camera.frustum_far = NEAR_M, FAR_M
            camera.frustum_center = (left + right) / 2 * NEAR_M
            camera.frustum_width = (right - left) / 2 * NEAR_M
            camera.frustum_top = (0.5 + cy) / fy * NEAR_M
            camera.frustum_bottom = (cy + 0.5 - self.height) / fy * NEAR_M
            camera.orthographic = 0

    def _read(self, segments: bool) -> tuple[np.ndarray, np.ndarray]:
        """Colour, or geom numbers as colours, (H, W, 3) uint8, and (H, W) float32 window depth."""
        mujoco = load_mujoco()
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = segments
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = segments
        colour = np.empty((self.height, self.width, 3), np.uint8)
        window = np.empty((self.height, self.width), np.float32)
        # Another renderer may have been at work in between.
        _gl_context(self.width, self.height).make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(colour, window, self._rect, self._context)
        return np.ascontiguousarray(colour[::-1]), window[::-1]


class WorldRenderer(ModelRenderer):
    """Renders one world; the model, its meshes and textures are uploaded once.

    Args:
        world: objects are drawn as their meshes, not as their convex parts.
        rng: draws textures of supports and surroundings; `render` draws the lights of each view.
        width, height: picture size, pixels.
        boxes: as many plain grey boxes are drawn where `move` puts them: a gripper. They hide what is behind them
            and have no mask.

    Raises:
        MissingExtra: no MuJoCo. RenderError: no offscreen OpenGL.
    """

    def __init__(
        self, world: World, rng: np.random.Generator, width: int = 640, height: int = 480, boxes: int = 0
    ) -> None:
        mujoco = load_mujoco()
        self.world = world
        model = _model(world, rng, width, height, boxes)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self._object_geoms = [model.geom(f"object_{item.object_id}").id for item in world.objects]
        self._box_geoms = [model.geom(f"box_{i}").id for i in range(boxes)]
        ids = np.zeros(model.ngeom, np.uint8)
        ids[self._object_geoms] = [item.object_id for item in world.objects]
        super().__init__(model, data, ids, width, height)
        self._shown_groups = model.geom_group.copy()

    def move(self, poses: np.ndarray, shown: np.ndarray, boxes: Sequence[SupportBox] = ()) -> None:
        """Put the objects and boxes elsewhere; supports and surroundings stay.

        Args:
            poses: (objects, 4, 4) world <- object, mm, in the order of the world's.
            shown: (objects,) bool; the others are not drawn.
            boxes: as many as were asked for.
        """
        model = self._model
        for geom, pose, visible in zip(self._object_geoms, poses, shown, strict=True):
            # A mesh geom's own frame is that of its principal axes.
            mesh = model.geom_dataid[geom]
            offset = np.empty(9)
            load_mujoco().mju_quat2Mat(offset, model.mesh_quat[mesh])
            model.geom_pos[geom] = pose[:3, :3] @ model.mesh_pos[mesh] + pose[:3, 3] * MM
            model.geom_quat[geom] = quaternion(pose[:3, :3] @ offset.reshape(3, 3))
            self._shown_groups[geom] = _SHOWN if visible else _HIDDEN
        for geom, box in zip(self._box_geoms, boxes, strict=True):
            model.geom_pos[geom], model.geom_quat[geom] = box.centre * MM, quaternion(box.rotation)
            model.geom_size[geom] = box.half * MM
        model.geom_group[:] = self._shown_groups
        load_mujoco().mj_forward(model, self._data)

    def render(
        self,
        camera_pose: np.ndarray,
        intrinsics: np.ndarray,
        rng: np.random.Generator,
        fractions: bool = True,
    ) -> Picture:
        """The world from one camera, with lights drawn from rng.

        Args:
            camera_pose: (4, 4) world <- camera (x right, y down, z forward), mm.
            intrinsics: (3, 3) pinhole, pixels; integer coordinates are pixel centres.
            fractions: False leaves out the pictures of every object alone; the visible fractions are then NaN.
        """
        depth, mask = self.geometry(camera_pose, intrinsics)
        fraction = np.full(len(self.world.objects), 0.0 if fractions else np.nan, np.float32)
        visible = np.bincount(mask.ravel(), minlength=256)
        alone = zip(self.world.objects, self._object_geoms, strict=True) if fractions else ()
        for i, (item, geom) in enumerate(alone):
            if not visible[item.object_id]:
                continue
            self._model.geom_group[:] = _HIDDEN
            self._model.geom_group[geom] = _SHOWN
            self._update(camera_pose, intrinsics)
            ids, _ = self._read(True)
            fraction[i] = visible[item.object_id] / np.count_nonzero(ids)
        self._model.geom_group[:] = self._shown_groups
        return Picture(self.colour(camera_pose, intrinsics, rng), depth, mask, fraction)

    def colour(self, camera_pose: np.ndarray, intrinsics: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 sRGB, as in Picture; takes half the time."""
        _draw_lights(self._model, rng, self.world.support_kind)
        load_mujoco().mj_forward(self._model, self._data)
        return self.rgb(camera_pose, intrinsics)


_CONTEXTS: dict[tuple[int, int], mujoco.GLContext] = {}
_BACKENDS = ("egl", "osmesa", "glfw")


def _gl_context(width: int, height: int) -> mujoco.GLContext:
    """An offscreen context, one a picture size and process: making one takes longer than a picture.

    The environment variable MUJOCO_GL names the way to OpenGL (egl, osmesa, glfw); unset, the first that works.
    """
    if (width, height) not in _CONTEXTS:
        load_mujoco()
        wanted = os.environ.get("MUJOCO_GL", "").lower()
        failures = []
        for backend in (wanted,) if wanted in _BACKENDS else _BACKENDS[:2]:
            try:
                context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
                context.make_current()
            except Exception as error:  # each backend fails in its own way: missing libraries, no device
                failures.append(f"{backend}: {error}")
                continue
            _CONTEXTS[width, height] = context
            break
        else:
            raise RenderError(f"no offscreen OpenGL ({'; '.join(failures)}); {OPENGL_REMEDY}")
    return _CONTEXTS[width, height]


def _model(world: World, rng: np.random.Generator, width: int, height: int, boxes: int = 0) -> mujoco.MjModel:
    mujoco = load_mujoco()
    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 1024
    spec.visual.map.znear, spec.visual.map.zfar = 0.05, 50
    spec.visual.map.shadowclip, spec.visual.map.shadowscale = 1.6, 0.8
    spec.stat.extent = 0.5
    spec.stat.center = [0, 0, 0.05]
    for item in world.objects:
        name = f"object_{item.object_id}"
        texture = cube_map(item.pattern, np.asarray(item.colour), rng)
        gloss = rng.uniform(0, 0.9) ** 2
        _material(spec, name, texture, mujoco.mjtTexture.mjTEXTURE_CUBE, gloss)
        mesh = solid_of(item.shape).mesh
        spec.add_mesh(
            name=name,
            uservert=(np.asarray(mesh.vertices, np.float64) * MM).ravel(),
            userface=np.asarray(mesh.faces, np.int32).ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
        _geom(spec, name, mujoco.mjtGeom.mjGEOM_MESH, item.pose[:3, 3], item.pose[:3, :3], meshname=name)
    _surroundings(spec, world, rng)
    for index in range(boxes):
        spec.worldbody.add_geom(
            name=f"box_{index}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.01] * 3, pos=[0, 0, 5],
            rgba=[0.25, 0.25, 0.28, 1.0], contype=0, conaffinity=0, group=_SHOWN,
        )  # fmt: skip
    for index in range(3):
        spec.worldbody.add_light(name=f"light_{index}", pos=[0, 0, 2], dir=[0, 0, -1], cutoff=75, exponent=1)
    return spec.compile()


def _surroundings(spec: mujoco.MjSpec, world: World, rng: np.random.Generator) -> None:
    """Support, floor, walls and sky."""
    mujoco = load_mujoco()
    flat = mujoco.mjtTexture.mjTEXTURE_2D
    for name, repeat in (("support", rng.uniform(1, 4)), ("table", rng.uniform(1, 4)), ("floor", 0.7)):
        texture = square(_pattern(rng), _tone(rng), rng)
        _material(spec, name, texture, flat, rng.uniform(0, 0.5) ** 2, repeat)
    for index, box in enumerate(world.support):
        # A bin stands on a table of its own.
        material = "table" if world.support_kind == "bin" and index == len(world.support) - 1 else "support"
        _geom(
            spec, f"support_{index}", mujoco.mjtGeom.mjGEOM_BOX, box.centre, box.rotation,
            size=box.half * MM, material=material,
        )  # fmt: skip
    floor = rng.uniform(-950, -550)
    _geom(
        spec, "floor", mujoco.mjtGeom.mjGEOM_PLANE, np.array([0, 0, floor]), np.eye(3),
        size=[4, 4, 0.1], material="floor",
    )  # fmt: skip
    for index in range(int(rng.integers(0, 3))):
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(1500, 3000)
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        name = f"wall_{index}"
        _material(spec, name, square("plain", _tone(rng), rng, 64), flat, 0.0)
        _geom(
            spec, name, mujoco.mjtGeom.mjGEOM_BOX, turn @ [away, 0, 500], turn,
            size=[0.05, 3, 2], material=name,
        )  # fmt: skip
    low, high = _tone(rng) ** 0.45, _tone(rng) ** 0.45
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=low, rgb2=high, width=32, height=192,
    )  # fmt: skip


def _geom(
    spec: mujoco.MjSpec,
    name: str,
    kind: object,
    position: np.ndarray,
    rotation: np.ndarray,
    material: str | None = None,
    **options: object,
) -> None:
    spec.worldbody.add_geom(
        name=name,
        type=kind,
        pos=np.asarray(position, np.float64) * MM,
        quat=quaternion(rotation),
        material=material or name,
        contype=0,
        conaffinity=0,
        group=_SHOWN,
        **options,
    )


def _material(
    spec: mujoco.MjSpec, name: str, picture: np.ndarray, kind: object, gloss: float, repeat: float = 1.0
) -> None:
    mujoco = load_mujoco()
    height, width = picture.shape[:2]
    texture = spec.add_texture(name=name, type=kind, width=width, height=height, nchannel=3)
    texture.data = picture.tobytes()
    material = spec.add_material(
        name=name, rgba=_WHITE, specular=gloss, shininess=gloss, texrepeat=[repeat, repeat], texuniform=True
    )
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _draw_lights(model: mujoco.MjModel, rng: np.random.Generator, support_kind: str) -> None:
    """A key light with shadows, up to two weaker ones, and light from everywhere; random in place and colour."""
    # A shelf is lit from its open front, and from what the room throws back.
    front = support_kind == "shelf"
    ambient = rng.uniform(0.3, 0.55) if front else rng.uniform(0.15, 0.45)
    warmth = rng.uniform(-0.08, 0.08)
    model.vis.headlight.ambient[:] = ambient * np.array([1 + warmth, 1, 1 - warmth])
    model.vis.headlight.diffuse[:] = rng.uniform(0, 0.25)
    model.vis.headlight.specular[:] = rng.uniform(0, 0.2)
    for light in range(model.nlight):
        azimuth = -np.pi / 2 + rng.uniform(-0.9, 0.9) if front else rng.uniform(-np.pi, np.pi)
        height = np.radians(rng.uniform(5, 35) if front else rng.uniform(30, 85))
        outward = np.array(
            [np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)]
        )
        model.light_pos[light] = rng.uniform(1.0, 2.2) * outward
        target = np.append(rng.uniform(-0.15, 0.15, 2), 0.0)
        model.light_dir[light] = target - model.light_pos[light]
        model.light_dir[light] /= np.linalg.norm(model.light_dir[light])
        active = light == 0 or rng.uniform() < 0.5
        strength = rng.uniform(0.4, 0.8) if light == 0 else rng.uniform(0.05, 0.3)
        warmth = rng.uniform(-0.12, 0.12)
        model.light_active[light] = active
        model.light_castshadow[light] = light == 0
        model.light_diffuse[light] = strength * np.array([1 + warmth, 1, 1 - warmth])
        model.light_specular[light] = rng.uniform(0.1, 0.6)
        model.light_ambient[light] = 0


def _pattern(rng: np.random.Generator) -> str:
    return str(rng.choice(PATTERNS, p=[0.3, 0.2, 0.1, 0.1, 0.2, 0.0, 0.1]))


def _tone(rng: np.random.Generator) -> np.ndarray:
    """A muted colour, linear RGB."""
    grey = rng.uniform(0.02, 0.75)
    return np.clip(grey * (1 + rng.uniform(-0.35, 0.35, 3)), 0.01, 0.9)
