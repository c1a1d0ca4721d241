"""A frame on the GPU, from one upload to the input octree of the objects that can be reconstructed.

Which objects those are is decided on the device, so that the work is the same for every frame of a size and
can be captured into a CUDA graph; one small read afterwards says which they were, and how large everything
is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.kernels.launchers import Launchers, Status
from zerograsp_edge.kernels.points import invert_intrinsics
from zerograsp_edge.runtime.bundle import Bundle, Limits
from zerograsp_edge.runtime.device import Device, Stream
from zerograsp_edge.runtime.errors import DeviceError, LimitError
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.gpu.layout import Layout
from zerograsp_edge.runtime.gpu.replay import Replay
from zerograsp_edge.runtime.network import node_limits
from zerograsp_edge.runtime.perception import larger
from zerograsp_edge.runtime.result import SkippedObject
from zerograsp_edge.runtime.skipping import check_some_kept, outside, sparse

# Margin of the cube in normalised coordinates, that of kernels.points_from_depth.
_CLIP_MARGIN = 0.01
_NARROW_TABLE, _WIDE_TABLE = 1 << 8, 1 << 16  # entries of the table from mask values to labels


@dataclass(frozen=True)
class SeenScene:
    """What the read after the input octree says.

    Attributes:
        ids: mask values of the objects that go on.
        skipped: those that do not, with the reason.
        z_min: near side of the octree's cube, mm.
        points: points of the objects in the cube.
        nodes: nodes per depth of the input octree, full_depth to max_lod.
        splits: of them split; at max_lod: voxels with points.
        grid_rows: rows of the active grid.
    """

    ids: list[int]
    skipped: list[SkippedObject]
    z_min: float
    points: int
    nodes: dict[int, int]
    splits: dict[int, int]
    grid_rows: int


class DeviceScene:
    """Buffers for a frame, its octree and its active grid, and what fills them.

    Attributes (addresses in device memory):
        rgb, depth, intrinsics: of the frame that was uploaded last.
        labels, valid_labels: (H, W) int32, objects that go on: whole masks, and their pixels with valid depth.
        points, voxel: (P, 3) float32 normalised, in raster order, and (P,) int32 rank of their voxel.
        z_min: (1,) float32, mm.
        keys, children, split_neighbours: of the input octree by depth.
        grid: rows, neighbours (27, R) and source (R) of the active grid.
    """

    def __init__(self, bundle: Bundle, device: Device, launch: Launchers) -> None:
        g, limits = self._geometry, self._limits = bundle.geometry, bundle.limits
        self._launch, self._zero_copy = launch, device.zero_copy
        self._replay = Replay()
        pixels = limits.max_height * limits.max_width
        self.capacity = node_capacity(bundle)
        self._most_voxels = self.capacity[g.max_lod]
        grid_nodes = limits.max_objects << (3 * g.min_lod)
        self.grid_capacity = grid_nodes + (2 * g.residual_blocks + 1) ** 3
        below = range(g.full_depth, g.max_lod)
        depths = range(g.full_depth, g.max_lod + 1)
        arrays = {
            "labels": ((pixels,), np.int32), "valid_labels": ((pixels,), np.int32), "points": ((pixels, 3), np.float32),
            "object": ((pixels,), np.int32), "voxel": ((pixels,), np.int32), "grid_rows": ((grid_nodes,), np.int32),
            "grid_neighbours": ((27, self.grid_capacity), np.int32), "grid_source": ((self.grid_capacity,), np.int32),
            **{f"keys_{d}": ((self.capacity[d],), np.int64) for d in depths},
            **{f"children_{d}": ((self.capacity[d],), np.int32) for d in depths},
            **{f"split_neighbours_{d}": ((self.capacity[d + 1] // 8, 27), np.int32) for d in below},
        }  # fmt: skip
        layout = Layout(arrays)
        self._memory = device.allocate(layout.nbytes, "the input octree")
        at = layout.addresses(self._memory.address)
        self.labels, self.valid_labels = at["labels"], at["valid_labels"]
        self.points, self.voxel, self._object = at["points"], at["voxel"], at["object"]
        self.grid_rows, self.grid_neighbours = at["grid_rows"], at["grid_neighbours"]
        self.grid_source = at["grid_source"]
        self.keys = {d: at[f"keys_{d}"] for d in depths}
        self.children = {d: at[f"children_{d}"] for d in depths}
        self.split_neighbours = {d: at[f"split_neighbours_{d}"] for d in below}

        most = self._upload_layout(limits.max_height, limits.max_width, np.dtype(np.int32), _WIDE_TABLE)
        self._staging = device.pinned(most.nbytes, "a frame")
        self._frame = device.allocate(most.nbytes, "a frame")
        self._layouts: dict[tuple[int, int, np.dtype, int], Layout] = {}
        objects, levels = limits.max_objects, len(depths)
        counts = Layout(
            {
                "status": ((1,), np.int32), "z_first": ((1,), np.float32), "z_min": ((1,), np.float32),
                "first": ((4,), np.int32), "first_inside": ((objects,), np.int32), "valid": ((objects,), np.int32),
                "points": ((4,), np.int32), "inside": ((objects,), np.int32), "still_valid": ((objects,), np.int32),
                "dense_table": ((objects + 1,), np.int32), "dense": ((objects,), np.int32),
                "dense_count": ((1,), np.int32),
                "kept_table": ((objects + 1,), np.int32), "kept": ((objects,), np.int32),
                "kept_count": ((1,), np.int32),
                "octree": ((levels, 4), np.int32), "grid": ((4,), np.int32),
            }
        )  # fmt: skip
        self._counts_memory = device.allocate(counts.nbytes, "counts")
        self._counts_read = device.pinned(counts.nbytes, "counts")
        self._counts = counts.addresses(self._counts_memory.address)
        self._read = counts.views(self._counts_read)
        self.z_min = self._counts["z_min"]
        self._read_done = device.event()
        # Arrays in host memory that a launcher looks at, one entry a depth; kept because they are the same
        # for every frame.
        self._pointers = {
            name: np.array([table.get(d, 0) for d in depths], np.uint64)
            for name, table in (
                ("keys", self.keys),
                ("children", self.children),
                ("split", self.split_neighbours),
            )
        }
        self._node_capacity: dict[int, np.ndarray] = {}
        self.workspace = max(
            launch.workspace("points_from_depth", height=limits.max_height, width=limits.max_width),
            launch.workspace("build_octree", points=pixels, max_nodes=max(self.capacity.values())),
            launch.workspace("active_grid", objects=limits.max_objects, depth=g.min_lod),
        )

    def upload(self, frame: Frame, stream: Stream) -> None:
        """Puts a frame on the device: one copy, of what the device does not read in place, and labels from its mask."""
        height, width = frame.height, frame.width
        table, low = frame.label_table()
        mask = frame.mask
        assert mask is not None
        if table is None or mask.dtype not in (np.uint8, np.uint16, np.int32):
            # Ids that are far apart, or of a type that the device does not read.
            mask, low = frame.label_image(), -1
            table = np.arange(-1, len(frame.object_ids()), dtype=np.int32)
        layout = self._layout(
            height, width, mask.dtype, _NARROW_TABLE if len(table) <= _NARROW_TABLE else _WIDE_TABLE
        )
        host = layout.views(self._staging)
        host["intrinsics"][...] = frame.intrinsics
        host["inverse"][...] = invert_intrinsics(frame.intrinsics)
        np.copyto(host["depth"], frame.depth)
        np.copyto(host["rgb"], frame.rgb)
        np.copyto(host["mask"], mask)
        host["table"][: len(table)] = table
        at, in_place = layout.addresses(self._frame.address), layout.addresses(self._staging.address)
        # What is read once, picture and mask, the device of a Jetson reads where it is.
        copied = layout.offset("rgb") if self._zero_copy else layout.nbytes
        stream.upload(self._frame.address, self._staging.bytes[:copied])
        once = in_place if self._zero_copy else at
        self.intrinsics, self._inverse, self.depth, self.rgb = (
            at["intrinsics"],
            at["inverse"],
            at["depth"],
            once["rgb"],
        )
        stream.fill(self._counts_memory.address, 0, self._counts_memory.nbytes)
        self._launch.relabel(
            stream.handle, values=once["mask"], value_bytes=mask.dtype.itemsize, n=height * width,
            n_count=None, low=low,
            table=once["table"], table_size=len(table), labels=self.labels, status=self._counts["status"],
        )  # fmt: skip

    def enqueue(
        self, height: int, width: int, objects: int, scratch: tuple[int, int], stream: Stream
    ) -> None:
        """From labels to octree and active grid, and the read of their sizes; `wait` for it."""
        self._replay.run(
            (height, width, objects), lambda: self._prepare(height, width, objects, scratch, stream), stream
        )
        stream.download(self._counts_read.bytes, self._counts_memory.address)
        self._read_done.record(stream)

    def wait(self, frame: Frame, ids: tuple[int, ...]) -> SeenScene:
        """Waits for the read, not for what was enqueued after it.

        Raises:
            FrameError: no object can be reconstructed.
            LimitError: the input octree has more nodes than the buffers hold.
        """
        self._read_done.wait()
        g, limits, read = self._geometry, self._limits, self._read
        z_min = float(read["z_min"][0])
        valid, inside = read["valid"][: len(ids)], read["inside"]
        skipped = [
            sparse(ids[i], int(valid[i]), limits.min_points)
            for i in np.flatnonzero(valid < limits.min_points)
        ]
        dense = [ids[i] for i in read["dense"][: int(read["dense_count"][0])]]
        skipped += [
            outside(i, z_min, g) for i, count in zip(dense, inside[: len(dense)], strict=True) if count == 0
        ]
        kept = [dense[i] for i in read["kept"][: int(read["kept_count"][0])]]
        check_some_kept(kept, skipped, frame.name)
        levels = dict(zip(range(g.full_depth, g.max_lod + 1), read["octree"].tolist(), strict=True))
        nodes = {g.full_depth: len(ids) << (3 * g.full_depth)}
        nodes |= {d + 1: levels[d][1] for d in range(g.full_depth, g.max_lod)}
        self._check(int(read["status"][0]), nodes, frame)
        return SeenScene(
            ids=kept,
            skipped=sorted(skipped, key=lambda s: s.object_id),
            z_min=z_min,
            points=int(read["points"][0]),
            nodes=nodes,
            splits={d: level[0] for d, level in levels.items()},
            grid_rows=int(read["grid"][0]),
        )

    def _prepare(
        self, height: int, width: int, objects: int, scratch: tuple[int, int], stream: Stream
    ) -> None:
        g, limits, launch, at, handle = (
            self._geometry,
            self._limits,
            self._launch,
            self._counts,
            stream.handle,
        )
        pixels, status, workspace = height * width, self._counts["status"], scratch[0]
        points_count = at["points"]

        def scan(valid_labels: int | None, z_min: str, counts: str, inside: str, valid: str) -> None:
            launch.points_from_depth(
                handle, depth=self.depth, labels=self.labels, height=height, width=width, objects=objects,
                inverse=self._inverse, grid_size=g.grid_size, z_margin=g.z_margin, half_extent=g.cube_size / 2,
                margin=_CLIP_MARGIN, min_depth=MIN_DEPTH_MM, valid_labels=valid_labels, points=self.points,
                object=self._object, max_points=pixels, z_min=at[z_min], counts=at[counts], object_counts=at[inside],
                object_valid_counts=at[valid], status=status, workspace=workspace, workspace_bytes=scratch[1],
            )  # fmt: skip

        def relabel(labels: int, n: int, n_count: int | None, table: str) -> None:
            launch.relabel(
                handle, values=labels, value_bytes=4, n=n, n_count=n_count, low=-1, table=at[table],
                table_size=objects + 1, labels=labels, status=status,
            )  # fmt: skip

        # Objects of too few pixels must not decide where the cube begins, hence the second scan.
        scan(None, "z_first", "first", "first_inside", "valid")
        launch.keep_objects(
            handle, counts=at["valid"], objects=objects, minimum=limits.min_points, table=at["dense_table"],
            kept=at["dense"], kept_count=at["dense_count"],
        )  # fmt: skip
        relabel(self.labels, pixels, None, "dense_table")
        scan(self.valid_labels, "z_min", "points", "inside", "still_valid")
        launch.keep_objects(
            handle, counts=at["inside"], objects=objects, minimum=1, table=at["kept_table"], kept=at["kept"],
            kept_count=at["kept_count"],
        )  # fmt: skip
        relabel(self.labels, pixels, None, "kept_table")
        relabel(self.valid_labels, pixels, None, "kept_table")
        relabel(self._object, pixels, points_count, "kept_table")
        capacity = self._node_capacity.get(objects)
        if capacity is None:
            depths = range(g.full_depth, g.max_lod + 1)
            grid = {g.full_depth: objects << (3 * g.full_depth)}
            capacity = self._node_capacity[objects] = np.array(
                [{**self.capacity, **grid}[d] for d in depths], np.int64
            )
        launch.build_octree(
            handle, points=self.points, object=self._object, n=pixels, n_count=points_count, objects=objects,
            depth=g.max_lod, full_depth=g.full_depth, nodes=capacity.ctypes.data, max_voxels=self._most_voxels,
            keys=self._pointers["keys"].ctypes.data, children=self._pointers["children"].ctypes.data,
            split_neighbours=self._pointers["split"].ctypes.data, voxel=self.voxel, counts=at["octree"],
            status=status, workspace=workspace, workspace_bytes=scratch[1],
        )  # fmt: skip
        # Nodes of depth min_lod: the second count of the depth above.
        launch.active_grid(
            handle, keys=self.keys[g.min_lod], n=self.capacity[g.min_lod], n_count=at["octree"] + 4, objects=objects,
            depth=g.min_lod, radius=g.residual_blocks, rows=self.grid_rows, neighbours=self.grid_neighbours,
            source=self.grid_source, max_rows=self.grid_capacity, packed=1, counts=at["grid"], status=status,
            workspace=workspace, workspace_bytes=scratch[1],
        )  # fmt: skip

    def _check(self, status: int, nodes: dict[int, int], frame: Frame) -> None:
        if status & Status.SPLITS_EXCEEDED:
            depth = next(
                (d for d in sorted(nodes)[1:] if nodes[d] >= self.capacity[d]), self._geometry.max_lod
            )
            few_tokens = (
                depth == self._geometry.min_lod and self.capacity[depth] == self._limits.max_tokens // 8 * 8
            )
            limit = "max_tokens" if few_tokens else "max_nodes"
            raise exceeded(
                frame, self._limits, limit, f"the input octree at depth {depth}", self.capacity[depth]
            )
        if status:
            raise DeviceError(f"frame '{frame.name}': {self._launch.describe(status)}")

    def _layout(self, height: int, width: int, mask: np.dtype, table: int) -> Layout:
        key = (height, width, mask, table)
        if key not in self._layouts:
            self._layouts[key] = self._upload_layout(*key)
        return self._layouts[key]

    @staticmethod
    def _upload_layout(height: int, width: int, mask: np.dtype, table: int) -> Layout:
        # Depth is read by several kernels; what follows it is read once.
        return Layout(
            {
                "intrinsics": ((3, 3), np.float32), "inverse": ((3, 3), np.float32),
                "depth": ((height, width), np.float32),
                "rgb": ((height, width, 3), np.uint8), "mask": ((height, width), mask), "table": ((table,), np.int32),
            }
        )  # fmt: skip


def node_capacity(bundle: Bundle) -> dict[int, int]:
    """Most nodes per depth; they come in eights, and engines are built for these sizes."""
    return {d: max(n // 8 * 8, 8) for d, n in node_limits(bundle.geometry, bundle.limits).items()}


def exceeded(frame: Frame, limits: Limits, limit: str, what: str, capacity: int) -> LimitError:
    """The error of a frame with too many nodes; the device knows that there are more, not how many."""
    return LimitError(
        f"frame '{frame.name}' exceeds the bundle's limit {limit} = {getattr(limits, limit)}: nodes of {what}: "
        f"more than {capacity} needed; {larger(limit)}"
    )
