"""The stages of a bundle on the GPU, from an uploaded frame to the occupied nodes of the finest depth.

The counterpart of `runtime.network.Network`. Between two reads everything is enqueued on one stream; the reads are
the sizes of the input octree and, per depth of the output octree, how many nodes split: TensorRT wants shapes
on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from zerograsp_edge.kernels.checks import check_array
from zerograsp_edge.kernels.launchers import Launchers, Status
from zerograsp_edge.runtime.backends.tensorrt import Context, Tensor, TensorRTExecutor
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.device import Device
from zerograsp_edge.runtime.errors import DeviceError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.gpu.layout import Layout
from zerograsp_edge.runtime.gpu.replay import Replay
from zerograsp_edge.runtime.gpu.scene import DeviceScene, SeenScene, exceeded
from zerograsp_edge.runtime.gpu.watch import DeviceWatch
from zerograsp_edge.runtime.network import Taps, check_finite_logits

_TYPES = {"float32": 0, "float16": 1}  # ZgType
_RECORD = 8  # int32 of a depth's growth: the counts of zg_cuda_grow, then the status


@dataclass(frozen=True)
class DeviceSurface:
    """The occupied nodes of the finest depth, in device memory.

    Attributes:
        count: how many.
        count_address: where the device has it, int32.
        nodes: nodes of the finest depth.
        signal, keys: of all of them; split_rows: the rows of those that are occupied.
    """

    count: int
    count_address: int
    nodes: int
    signal: int
    keys: int
    split_rows: int


class DeviceNetwork:
    """Runs a bundle's stages on frames, one at a time. All device memory is allocated here.

    Args:
        bundle: geometry, limits and stages.
        device: current while this is made and used.
        executor: the bundle's engines.
        launch: the CUDA kernels.
        workspace: bytes of scratch memory that others need on the same stream.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        executor: TensorRTExecutor,
        launch: Launchers,
        workspace: int = 0,
    ) -> None:
        g, limits = self._geometry, self._limits = bundle.geometry, bundle.limits
        self._bundle, self._device, self._executor, self._launch = bundle, device, executor, launch
        self.stream = device.stream()
        self.scene = DeviceScene(bundle, device, launch)
        self._dtypes = {
            name: {tensor: np.dtype(kind) for tensor, kind in stage.dtypes.items()}
            for name, stage in bundle.stages.items()
        }
        multiple = g.image_multiple
        padded = [-(-n // multiple) * multiple for n in (limits.max_height, limits.max_width)]
        nodes, low, high = self.scene.capacity, g.min_lod, g.max_lod
        rows = {d: self.scene.grid_capacity if d == low else nodes[d] for d in g.depths}
        image, encoder = self._dtypes["image_encoder"], self._dtypes["octree_encoder"]
        finest = g.signal_channels + 2
        arrays: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            "padded": ((padded[0] * padded[1] * 3,), np.uint8),
            "image_features": ((g.image_channels * padded[0] * padded[1],), image["image_features"]),
            "voxels": ((nodes[high], 3 + g.image_channels), encoder["features"]),
            "noise": ((limits.max_objects, g.latent), encoder["noise"]),
            "object": ((nodes[low],), np.int32), "centres": ((nodes[low], 3), np.float32),
            "positions": ((nodes[low], 3), np.float32), "adjacency": ((limits.max_objects**2,), np.bool_),
            "tokens": ((nodes[low], g.channels_at(low)), encoder["tokens"]),
            "latent_mean": ((limits.max_objects, g.latent), encoder["latent_mean"]),
            "latent_log_variance": ((limits.max_objects, g.latent), encoder["latent_log_variance"]),
            "grid_keys": ((limits.max_objects << (3 * low),), np.int64),
        }  # fmt: skip
        for d in g.depths:
            decoder, splits = self._dtypes[f"decoder_{d}"], nodes[d] if d == high else nodes[d + 1] // 8
            if d > low:
                arrays[f"skip_{d}"] = ((nodes[d], g.channels_at(d)), encoder[f"skip_{d}"])
            if d < high:
                arrays[f"features_{d}"] = ((rows[d], g.channels_at(d)), decoder["features"])
                arrays[f"keys_{d + 1}"] = ((8 * splits,), np.int64)
                arrays[f"split_neighbours_{d}"] = ((splits, 27), np.int32)
            head = (rows[d], finest if d == high else 2)
            arrays[f"logits_{d}"] = (head, decoder["signal" if d == high else "logits"])
            arrays[f"split_rows_{d}"] = ((splits,), np.int32)
            arrays[f"children_{d}"] = ((limits.max_objects << (3 * d) if d == low else nodes[d],), np.int32)
        layout = Layout(arrays)
        self._memory = device.allocate(layout.nbytes, "the buffers between the stages")
        self._at = layout.addresses(self._memory.address)
        self._most_splits = {d: nodes[d] if d == high else nodes[d + 1] // 8 for d in g.depths}
        self._rows = rows

        pixels = limits.max_height * limits.max_width
        self.scratch_bytes = max(
            workspace,
            executor.memory,
            self.scene.workspace,
            launch.workspace("voxel_features", points=pixels, voxels=nodes[high]),
            launch.workspace("grow", nodes=max(*nodes.values(), limits.max_objects << (3 * low))),
        )
        self._scratch = device.allocate(self.scratch_bytes, "scratch")
        self.scratch = (self._scratch.address, self.scratch_bytes)
        executor.use_memory(*self.scratch)

        depths = len(g.depths)
        self._records = device.allocate(4 * _RECORD * depths, "counts")
        self._record = {d: self._records.address + 4 * _RECORD * i for i, d in enumerate(g.depths)}
        self._record_read = device.pinned(4 * _RECORD, "counts")
        self._noise_staging = device.pinned(
            limits.max_objects * g.latent * encoder["noise"].itemsize, "noise"
        )
        self._image_contexts: dict[tuple[int, int], Context] = {}
        self._image_replay = Replay()
        self._write_grid_keys()

    def see(self, frame: Frame, ids: tuple[int, ...], watch: DeviceWatch) -> SeenScene:
        """Uploads a frame, and enqueues its octree and the image encoder; what the octree is like.

        Raises:
            FrameError, LimitError: see `DeviceScene.wait`.
        """
        scene, stream = self.scene, self.stream
        with watch.host("staging"):
            scene.upload(frame, stream)
        watch.mark("upload", stream)
        scene.enqueue(frame.height, frame.width, len(ids), self.scratch, stream)
        watch.mark("points", stream)
        # Runs while the host looks at what was read.
        self._encode_image(frame)
        watch.mark("image_encoder", stream)
        return scene.wait(frame, ids)

    def run(
        self,
        frame: Frame,
        seen: SeenScene,
        watch: DeviceWatch,
        *,
        noise: np.ndarray | None = None,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> DeviceSurface:
        """The stages after `see`; arguments and errors as `Network.run`, LimitError in place of CapacityError."""
        stream = self.stream
        stream.fill(self._records.address, 0, self._records.nbytes)
        self._encode_octree(frame, seen, noise, watch)
        if taps is not None:
            self._tap_encoders(frame, seen, taps)
        return self._decode(frame, seen, forced_splits or {}, watch, taps)

    def _encode_image(self, frame: Frame) -> None:
        size = (frame.height, frame.width)
        padded = self._padded(*size)
        context = self._image_contexts.get(size)
        if context is None:
            context = self._image_contexts[size] = self._executor.another_context("image_encoder")

        def enqueue() -> None:
            rgb = self.scene.rgb
            if padded != size:
                rgb = self._at["padded"]
                self._launch.pad_image(
                    self.stream.handle, rgb=self.scene.rgb, height=size[0], width=size[1], padded_height=padded[0],
                    padded_width=padded[1], padded=rgb,
                )  # fmt: skip
            inputs = {"rgb": (rgb, (*padded, 3))}
            context.enqueue(inputs, {"image_features": self._at["image_features"]}, self.stream)

        self._image_replay.run(size, enqueue, self.stream)

    def _encode_octree(
        self, frame: Frame, seen: SeenScene, noise: np.ndarray | None, watch: DeviceWatch
    ) -> None:
        g, at, scene, stream, launch = self._geometry, self._at, self.scene, self.stream, self._launch
        height, width, objects = frame.height, frame.width, len(seen.ids)
        status = self._record[g.min_lod] + 16
        padded = self._padded(height, width)
        launch.voxel_features(
            stream.handle, image_type=self._type("image_encoder", "image_features"),
            image_features=at["image_features"],
            channels=g.image_channels, padded_height=padded[0], padded_width=padded[1], points=scene.points,
            voxel=scene.voxel, n=seen.points, n_count=None, voxels=seen.splits[g.max_lod], voxels_count=None,
            intrinsics=scene.intrinsics, z_min=scene.z_min, half_extent=g.cube_size / 2, height=height, width=width,
            depth=g.max_lod, type=self._type("octree_encoder", "features"), features=at["voxels"], status=status,
            workspace=self.scratch[0], workspace_bytes=self.scratch[1],
        )  # fmt: skip
        watch.mark("voxel_features", stream)
        low = seen.nodes[g.min_lod]
        launch.node_geometry(
            stream.handle, keys=scene.keys[g.min_lod], n=low, n_count=None, depth=g.min_lod,
            half_extent=g.cube_size / 2,
            z_min=scene.z_min, centres=at["centres"], positions=at["positions"], object=at["object"],
        )  # fmt: skip
        launch.adjacency(
            stream.handle, labels=scene.labels, height=height, width=width, objects=objects, adjacent=at["adjacency"],
            status=status,
        )  # fmt: skip
        self._set_noise(objects, noise)
        inputs: dict[str, Tensor] = {
            "features": (at["voxels"], (seen.splits[g.max_lod], 3 + g.image_channels)),
            "object": (at["object"], (low,)),
            "noise": (at["noise"], (objects, g.latent)),
        }
        for d in g.depths:
            inputs[f"children_{d}"] = (scene.children[d], (seen.nodes[d],))
            inputs[f"split_neighbours_{d - 1}"] = (scene.split_neighbours[d - 1], (seen.splits[d - 1], 27))
        if g.occlusion:
            inputs["centres"] = (at["centres"], (low, 3))
            inputs["depth"], inputs["labels"] = (
                (scene.depth, (height, width)),
                (scene.valid_labels, (height, width)),
            )
            inputs["adjacency"], inputs["intrinsics"] = (
                (at["adjacency"], (objects, objects)),
                (scene.intrinsics, (3, 3)),
            )
        if g.multi_object:
            inputs["positions"] = (at["positions"], (low, 3))
        self._executor.enqueue(
            "octree_encoder", inputs, {name: at[name] for name in self._encoder_outputs}, stream
        )
        watch.mark("octree_encoder", stream)

    def _decode(
        self,
        frame: Frame,
        seen: SeenScene,
        forced: Mapping[int, np.ndarray],
        watch: DeviceWatch,
        taps: Taps | None,
    ) -> DeviceSurface:
        g, at, scene, stream = self._geometry, self._at, self.scene, self.stream
        low, high, objects = g.min_lod, g.max_lod, len(seen.ids)
        nodes, keys, parent_splits = objects << (3 * low), at["grid_keys"], 0
        inputs: dict[str, Tensor] = {
            "tokens": (at["tokens"], (seen.nodes[low], g.channels_at(low))),
            "source": (scene.grid_source, (seen.grid_rows,)),
            "neighbours": (scene.grid_neighbours, (27, seen.grid_rows)),
        }
        for d in g.depths:
            count = seen.grid_rows if d == low else nodes
            outputs = {"signal": at[f"logits_{d}"]} if d == high else {
                "features": at[f"features_{d}"], "logits": at[f"logits_{d}"],
            }  # fmt: skip
            self._executor.enqueue(f"decoder_{d}", inputs, outputs, stream)
            watch.mark(f"decoder_{d}", stream)
            if taps is not None:
                self._tap_decoder(d, count, outputs, nodes, keys, taps)
            self._grow(d, count, nodes, keys, parent_splits, objects, forced.get(d))
            splits, below, nan_count, status = self._read_growth(d)
            watch.mark("growth", stream)
            if status & Status.SPLITS_EXCEEDED:
                raise exceeded(
                    frame,
                    self._limits,
                    "max_nodes",
                    f"the output octree below depth {d}",
                    8 * self._most_splits[d],
                )
            if status:
                raise DeviceError(f"frame '{frame.name}', decoder_{d}: {self._launch.describe(status)}")
            check_finite_logits(d, nan_count, nodes)
            if d == high:
                break
            inputs = {
                "parent_features": (at[f"features_{d}"], (count, g.channels_at(d))),
                "split_rows": (at[f"split_rows_{d}"], (splits,)),
                "split_neighbours": (at[f"split_neighbours_{d}"], (splits, 27)),
                "keys": (at[f"keys_{d + 1}"], (below,)),
                "skip": (at[f"skip_{d + 1}"], (seen.nodes[d + 1], g.channels_at(d + 1))),
                "skip_keys": (scene.keys[d + 1], (seen.nodes[d + 1],)),
            }
            nodes, keys, parent_splits = below, at[f"keys_{d + 1}"], splits
        return DeviceSurface(
            splits, self._record[high], nodes, at[f"logits_{high}"], keys, at[f"split_rows_{high}"]
        )

    def _grow(
        self,
        depth: int,
        count: int,
        nodes: int,
        keys: int,
        parent_splits: int,
        objects: int,
        forced: np.ndarray | None,
    ) -> None:
        """Splits the nodes of a depth; without waiting for how many, also the neighbours of those that split."""
        g, at, launch, handle = self._geometry, self._at, self._launch, self.stream.handle
        last, first = depth == g.max_lod, depth == g.min_lod
        record, children, most = self._record[depth], at[f"children_{depth}"], self._most_splits[depth]
        launch.grow(
            handle, type=self._type(f"decoder_{depth}", "signal" if last else "logits"), logits=at[f"logits_{depth}"],
            row_count=count, stride=2 + g.signal_channels if last else 2, rows=self.scene.grid_rows if first else None,
            forced=None if forced is None else self._upload_splits(depth, forced, nodes), keys=keys,
            nodes=nodes, nodes_count=None, keep_one=int(not last), children=children,
            split_rows=at[f"split_rows_{depth}"],
            max_splits=most, next_keys=None if last else at[f"keys_{depth + 1}"], counts=record, status=record + 16,
            workspace=self.scratch[0], workspace_bytes=self.scratch[1],
        )  # fmt: skip
        if first:
            launch.split_neighbours_of_grid(
                handle, depth=depth, objects=objects, children=children,
                split_neighbours=at[f"split_neighbours_{depth}"], splits=most,
            )  # fmt: skip
        elif not last:
            launch.split_neighbours_from_parents(
                handle, parents=at[f"split_neighbours_{depth - 1}"], parent_splits=parent_splits,
                parent_splits_count=None,
                children=children, split_neighbours=at[f"split_neighbours_{depth}"], splits=most,
            )  # fmt: skip

    def _read_growth(self, depth: int) -> tuple[int, int, int, int]:
        """Split nodes, nodes below, nodes with NaN, status: the one read of a depth."""
        self.stream.download(self._record_read.bytes, self._record[depth])
        self.stream.synchronize()
        splits, below, nan_count, _, status = self._record_read.bytes.view(np.int32)[:5].tolist()
        return splits, below, nan_count, status

    def _set_noise(self, objects: int, noise: np.ndarray | None) -> None:
        dtype = self._dtypes["octree_encoder"]["noise"]
        nbytes = objects * self._geometry.latent * dtype.itemsize
        if noise is None:
            self.stream.fill(self._at["noise"], 0, nbytes)
            return
        self._noise_staging.view(0, noise.shape, dtype)[...] = noise
        self.stream.upload(self._at["noise"], self._noise_staging.bytes[:nbytes])

    def _write_grid_keys(self) -> None:
        g = self._geometry
        objects, morton = (
            np.arange(n, dtype=np.int64) for n in (self._limits.max_objects, 1 << (3 * g.min_lod))
        )
        keys = (objects[:, None] << 48 | morton).ravel()
        staging = self._device.pinned(keys.nbytes, "keys")
        staging.bytes[: keys.nbytes] = keys.view(np.uint8)
        self.stream.upload(self._at["grid_keys"], staging.bytes[: keys.nbytes])
        self.stream.synchronize()

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        multiple = self._geometry.image_multiple
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def _type(self, stage: str, tensor: str) -> int:
        return element_type(self._bundle, stage, tensor)

    @property
    def _encoder_outputs(self) -> list[str]:
        g = self._geometry
        return [
            "tokens",
            "latent_mean",
            "latent_log_variance",
            *(f"skip_{d}" for d in g.depths if d > g.min_lod),
        ]

    # ---- verification: copies that wait, memory that is allocated when it is needed ----

    def _upload_splits(self, depth: int, forced: np.ndarray, nodes: int) -> int:
        """Address of a copy of the splits, which stays until those of the next depth."""
        check_array(f"forced splits of depth {depth}", forced, np.bool_, (nodes,))
        staging = self._device.pinned(nodes, "splits")
        staging.bytes[:nodes] = forced.view(np.uint8)
        self._splits = self._device.allocate(nodes, "splits")
        self.stream.upload(self._splits.address, staging.bytes[:nodes])
        self.stream.synchronize()
        return self._splits.address

    def _fetch(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A copy of an array in device memory."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        staging = self._device.pinned(nbytes, "a tensor")
        self.stream.download(staging.bytes[:nbytes], address)
        self.stream.synchronize()
        return staging.view(0, shape, dtype).copy()

    def _tap_encoders(self, frame: Frame, seen: SeenScene, taps: Taps) -> None:
        g, at, objects = self._geometry, self._at, len(seen.ids)
        padded = self._padded(frame.height, frame.width)
        image = self._fetch(
            at["image_features"],
            (g.image_channels, padded[0] * padded[1]),
            self._dtypes["image_encoder"]["image_features"],
        )
        taps["image_encoder/image_features"] = np.ascontiguousarray(image.T)
        for name in self._encoder_outputs:
            depth = g.min_lod if name == "tokens" else int(name[5:]) if name.startswith("skip_") else None
            shape = (objects, g.latent) if depth is None else (seen.nodes[depth], g.channels_at(depth))
            taps[f"octree_encoder/{name}"] = self._fetch(
                at[name], shape, self._dtypes["octree_encoder"][name]
            )
        for d in g.depths:
            taps[f"input_keys_{d}"] = self._fetch(self.scene.keys[d], (seen.nodes[d],), np.dtype(np.int64))

    def _tap_decoder(
        self, depth: int, count: int, outputs: Mapping[str, int], nodes: int, keys: int, taps: Taps
    ) -> None:
        g, stage = self._geometry, f"decoder_{depth}"
        rows: np.ndarray | slice = slice(None)
        if depth == g.min_lod:
            rows = self._fetch(self.scene.grid_rows, (nodes,), np.dtype(np.int32))
        columns = {"features": g.channels_at(depth), "logits": 2, "signal": 2 + g.signal_channels}
        for name, address in outputs.items():
            taps[f"{stage}/{name}"] = self._fetch(address, (count, columns[name]), self._dtypes[stage][name])[
                rows
            ]
        taps[f"keys_{depth}"] = self._fetch(keys, (nodes,), np.dtype(np.int64))


def element_type(bundle: Bundle, stage: str, tensor: str) -> int:
    """ZgType of a tensor of features."""
    return _TYPES[bundle.stages[stage].dtypes[tensor]]
