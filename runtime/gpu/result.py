"""From the occupied nodes on the GPU to surfaces and grasps on the host: decoding, refinement, the one download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zerograsp_edge.kernels.hand import RefinedGrasps
from zerograsp_edge.kernels.launchers import Launchers, Status
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.device import Device, Stream
from zerograsp_edge.runtime.errors import DecodeError, DeviceError
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.gpu.layout import Layout
from zerograsp_edge.runtime.gpu.network import DeviceSurface, element_type
from zerograsp_edge.runtime.gpu.scene import DeviceScene, node_capacity
from zerograsp_edge.runtime.grasp.decode import OctreeCube
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

_LOGIT_CHANNELS = 2  # before the signal's


class DeviceResult:
    """Buffers for a frame's surface and grasps.

    Args:
        bundle: geometry and limits.
        device: current while this is made and used.
        launch: the CUDA kernels.
        refine: whether and how grasps are refined on the device.
    """

    def __init__(
        self, bundle: Bundle, device: Device, launch: Launchers, refine: RefineConfig | None
    ) -> None:
        g, limits = bundle.geometry, bundle.limits
        self._geometry, self._launch = g, launch
        self._type = element_type(bundle, f"decoder_{g.max_lod}", "signal")
        most = node_capacity(bundle)[g.max_lod]
        self._refine = refine if refines(refine) else None
        pixels = limits.max_height * limits.max_width
        self._most_visible = -(-pixels // refine.visible_stride) if refine is not None else 0
        largest = self._layout(most, limits.max_objects)
        self._memory = device.allocate(largest.nbytes, "results")
        self._host = device.pinned(largest.nbytes, "results")
        # Surface points in metres, which are the grasps' translations, then the visible ones.
        self._scene_capacity = most + self._most_visible
        self._points = device.allocate(12 * self._scene_capacity, "points of the scene")
        counts = Layout({"visible": ((4,), np.int32), "first": ((limits.max_objects + 1,), np.int32)})
        self._counts_memory = device.allocate(counts.nbytes, "counts")
        self._counts = counts.addresses(self._counts_memory.address)
        self.workspace = 0
        if self._refine is not None:
            self.workspace = max(
                launch.workspace(
                    "visible_points",
                    height=limits.max_height,
                    width=limits.max_width,
                    stride=self._refine.visible_stride,
                ),
                launch.workspace("refine_grasps", points=self._scene_capacity),
            )
        self._hand = np.zeros(12, np.float32)
        self._plane = np.zeros(4, np.float32)
        if self._refine is not None:
            sweep = self._refine.approach_distance
            self._hand = replace(self._refine.gripper.hand, sweep=-1.0 if sweep is None else sweep).lengths()

    def enqueue(
        self, frame: Frame, surface: DeviceSurface, scene: DeviceScene, objects: int,
        world_from_camera: np.ndarray | None, scratch: tuple[int, int], stream: Stream,
    ) -> Layout:  # fmt: skip
        """Decoding, refinement and the download; the layout of what arrives."""
        g, n = self._geometry, surface.count
        layout = self._layout(n, objects)
        at = layout.addresses(self._memory.address)
        stream.fill(at["status"], 0, 4)
        if n:
            self._launch.decode(
                stream.handle, type=self._type, signal=surface.signal, rows=surface.nodes,
                stride=_LOGIT_CHANNELS + g.signal_channels, first_channel=_LOGIT_CHANNELS,
                split_rows=surface.split_rows,
                keys=surface.keys, n=n, n_count=None, objects=objects, depth=g.max_lod, half_extent=g.cube_size / 2,
                z_min=scene.z_min, points=at["points"], normals=at["normals"], sdf=at["sdf"], nodes=at["nodes"],
                rotation=at["rotation"], translation=self._points.address, width=at["width"], grasp_depth=at["depth"],
                score=at["score"], object=at["object"], first=at["first"], status=at["status"],
            )  # fmt: skip
        else:
            stream.fill(at["first"], 0, 4 * (objects + 1))
        if self._refine is not None and n:
            self._refine_grasps(
                frame, self._refine, n, surface, scene, at, world_from_camera, scratch, stream
            )
        stream.download(self._host.bytes[: layout.nbytes], self._memory.address)
        return layout

    def collect(
        self, layout: Layout, ids: Sequence[int], cube: OctreeCube, frame: Frame
    ) -> tuple[tuple[ObjectReconstruction, ...], RefinedGrasps | None]:
        """The downloaded results, after the stream was waited for.

        Returns:
            The objects; for their grasps in that order what refinement found, where it ran on the device.

        Raises:
            DecodeError: the network's output is not finite.
        """
        views = layout.views(self._host)
        status = int(views["status"][0])
        if status & Status.SIGNAL_NOT_FINITE:
            raise DecodeError(
                "the network's output is not finite at a node of the surface; "
                "a lower-precision engine may overflow: run `zerograsp-edge verify`, or rebuild in fp32"
            )
        if status:
            raise DeviceError(f"frame '{frame.name}': {self._launch.describe(status)}")
        read = {name: view.copy() for name, view in views.items()}  # the next frame writes there
        points = read["points"]
        grasps = Grasps(
            score=read["score"],
            width=read["width"],
            depth=read["depth"],
            rotation=read["rotation"],
            translation=points / np.float32(1000),
            object_id=np.asarray(ids, np.int32)[read["object"]],
        )
        first = read["first"].tolist()
        objects = tuple(
            ObjectReconstruction(
                object_id=int(object_id),
                index=i,
                points=points[rows],
                normals=read["normals"][rows],
                sdf=read["sdf"][rows],
                nodes=read["nodes"][rows],
                origin=cube.origin,
                voxel_size=cube.voxel_size,
                grasps=grasps[rows],
            )
            for i, object_id in enumerate(ids)
            for rows in [slice(first[i], first[i + 1])]
        )
        if self._refine is None:
            return objects, None
        return objects, RefinedGrasps(
            read["refined_width"], read["refined_depth"], read["inner"], read["fit"]
        )

    def _refine_grasps(
        self, frame: Frame, refine: RefineConfig, n: int, surface: DeviceSurface, scene: DeviceScene,
        at: dict[str, int],
        world_from_camera: np.ndarray | None, scratch: tuple[int, int], stream: Stream,
    ) -> None:  # fmt: skip
        plane = None
        if refine.support is not None and refine.support.thickness > 0:
            self._plane[:3], self._plane[3] = refine.support.level(world_from_camera)
            plane = self._plane.ctypes.data
        self._launch.visible_points(
            stream.handle, depth=scene.depth, height=frame.height, width=frame.width, intrinsics=scene.intrinsics,
            stride=refine.visible_stride, min_depth=MIN_DEPTH_MM, plane=plane, first=surface.count_address,
            points=self._points.address, max_points=self._scene_capacity, counts=self._counts["visible"],
            status=at["status"], workspace=scratch[0], workspace_bytes=scratch[1],
        )  # fmt: skip
        self._launch.refine_grasps(
            stream.handle, rotation=at["rotation"], translation=self._points.address, width=at["width"],
            depth=at["depth"], n=n, n_count=None, points=self._points.address, point_count=self._scene_capacity,
            points_count=self._counts["visible"], hand=self._hand.ctypes.data, lengths=len(self._hand),
            min_inner_points=refine.gripper.hand.min_inner_points, refined_width=at["refined_width"],
            refined_depth=at["refined_depth"], inner_points=at["inner"], fit=at["fit"], status=at["status"],
            workspace=scratch[0], workspace_bytes=scratch[1],
        )  # fmt: skip

    def _layout(self, n: int, objects: int) -> Layout:
        refined = {
            "refined_width": ((n,), np.float32), "refined_depth": ((n,), np.float32), "inner": ((n,), np.int32),
            "fit": ((n,), np.uint8),
        }  # fmt: skip
        return Layout(
            {
                "status": ((1,), np.int32), "first": ((objects + 1,), np.int32), "points": ((n, 3), np.float32),
                "normals": ((n, 3), np.float32), "sdf": ((n,), np.float32), "nodes": ((n, 3), np.int32),
                "rotation": ((n, 3, 3), np.float32), "width": ((n,), np.float32), "depth": ((n,), np.float32),
                "score": ((n,), np.float32), "object": ((n,), np.int32),
                **(refined if self._refine is not None else {}),
            }
        )  # fmt: skip


def refines(config: RefineConfig | None) -> bool:
    """Whether the device refines the grasps; antipodal grasps are made on the surface, which the CPU does."""
    return config is not None and config.antipodal is None
