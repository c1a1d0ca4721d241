"""What runs between the stages on the device, from points to grasps, by the launches and loops of `kernels/cuda`.

`voxel_features`, `active_grid` and `decode` have no CUDA source to count by yet; theirs is what such kernels cannot do
without.
"""

from __future__ import annotations

from dataclasses import dataclass

from parts.roofline_count import Kernel, Stage


@dataclass(frozen=True)
class Sizes:
    """The sizes of a frame that are no tensor shapes.

    Attributes:
        valid: masked pixels with depth.
        points: of them inside the cube.
        voxels: finest voxels that hold points.
        input_nodes, output_nodes: nodes by depth.
        splits: of the output octree's nodes, those that split.
        full_rows: rows of the coarsest decoder (`active_grid`).
        grasps: before refinement; `candidates` after its collision check; `kept` after suppression.
        suppression_pairs: kept grasps that a round of 256 candidates is compared with, summed over the rounds.
        scene_points: that grasps are refined against.
    """

    height: int
    width: int
    objects: int
    image_channels: int
    valid: int
    points: int
    voxels: int
    input_nodes: dict[int, int]
    output_nodes: dict[int, int]
    splits: dict[int, int]
    full_rows: int
    grasps: int
    candidates: int
    kept: int
    suppression_pairs: int
    scene_points: int

    @property
    def pixels(self) -> int:
        return self.height * self.width


SIGNAL = 16  # channels of the finest decoder's output
GRASP_BYTES = 4 * 17  # score, width, depth, rotation, translation, object, quality
POINT_BYTES = 4 * 6  # position, normal


def _memset(name: str, size: int) -> Kernel:
    return Kernel(f"{name} memset", fixed=size)


def upload(s: Sizes) -> Stage:
    """Colours, depth (16 bits) and labels (32 bits, as the kernels read them); depth becomes float32 on the device."""
    convert = Kernel("depth to float32", fixed=6 * s.pixels)
    return Stage("upload", [convert], copies=(3 + 2 + 4) * s.pixels, calls=4)


def points(s: Sizes) -> Stage:
    """`zg_cuda_points_from_depth` and `zg_cuda_adjacency`: coordinates are float64 products, of valid pixels only."""
    axis = 13  # float64 operations of a coordinate: 5 multiplications and sums, 8 conversions
    kernels = [_memset(f"points {i}", 64) for i in range(4)] + [
        Kernel("nearest", fixed=12 * s.pixels, threads=s.valid * axis, work="float64"),
        Kernel("z_min", fixed=8),
        Kernel("count points", fixed=8 * s.pixels, threads=s.valid * 3 * axis, work="float64"),
        Kernel("sum points", fixed=8 * (s.pixels // 1024 + 1)),
        Kernel(
            "write points", fixed=8 * s.pixels + 16 * s.points, threads=s.valid * 3 * axis, work="float64"
        ),
        _memset("adjacency", s.objects**2),
        # 45 pixels ahead of every masked one, from the caches; the multiprocessors' loads bound it.
        Kernel("adjacency", fixed=4 * s.pixels, threads=45 * s.valid, work="load"),
    ]
    return Stage("points", kernels, calls=2)


def _split(name: str, nodes: int, per_node: int, splits: int, below: bool) -> list[Kernel]:
    """Count, sum and write the nodes that split (`kernels/cuda/split.h`), reading `per_node` bytes of each twice."""
    return [
        _memset(f"{name} counts", 16),
        Kernel(f"{name} count", fixed=per_node * nodes),
        Kernel(f"{name} sum", fixed=8 * (nodes // 1024 + 1)),
        Kernel(f"{name} write", fixed=(per_node + 12) * nodes + (4 + 64 * below) * splits),
    ]


def octree_build(s: Sizes) -> Stage:
    """`zg_cuda_build_octree`: depth by depth, every point to its child; the children that hold points split."""
    kernels: list[Kernel] = []
    depths = sorted(s.input_nodes)
    for d in depths:
        nodes, last = s.input_nodes[d], d == depths[-1]
        splits = s.voxels if last else s.input_nodes[d + 1] // 8
        kernels.append(_memset(f"marks {d}", nodes))
        if d == depths[0]:
            kernels.append(Kernel(f"grid keys {d}", fixed=8 * nodes))
        kernels.append(Kernel(f"descend {d}", fixed=17 * s.points))
        kernels += _split(f"split {d}", nodes, 1, splits, below=not last)
        if not last:
            kernels.append(Kernel(f"split neighbours {d}", fixed=4 * 27 * splits * 2 + 4 * nodes))
    kernels.append(Kernel("voxel of points", fixed=12 * s.points))
    return Stage("octree_build", kernels, reads=1)


def voxel_features(s: Sizes, feature_bytes: int) -> Stage:
    """Four pixels of the feature map for every point, added up in its voxel, then divided.

    Neighbouring points are neighbouring pixels: a pixel of the map comes from memory once, sums stay in the cache.
    """
    sampled = s.points * s.image_channels * feature_bytes
    sums = s.voxels * (4 + s.image_channels) * 4
    return Stage(
        "voxel_features",
        [
            _memset("voxel sums", sums),
            Kernel(
                "sample and add", fixed=16 * s.points + sampled + 2 * sums,
                threads=s.points * (s.image_channels + 4), work="atomic",
            ),
            Kernel("mean", fixed=sums + s.voxels * (3 + s.image_channels) * feature_bytes),
            Kernel("node coordinates", fixed=40 * min(s.input_nodes.values())),
        ],
    )  # fmt: skip


def growth(s: Sizes) -> Stage:
    """The coarsest decoder's rows, `zg_cuda_grow` and every depth's neighbours; the host waits for each node count."""
    depths = sorted(s.output_nodes)
    kernels = [
        Kernel("active grid: mark", fixed=8 * s.input_nodes[depths[0]] + s.output_nodes[depths[0]]),
        Kernel("active grid: rank", fixed=12 * s.output_nodes[depths[0]]),
        Kernel("active grid: neighbours", fixed=4 * 28 * s.full_rows + 4 * s.output_nodes[depths[0]]),
    ]
    for d in depths:
        nodes, last = s.output_nodes[d], d == depths[-1]
        kernels += _split(f"grow {d}", nodes, 12, s.splits[d], below=not last)
        if not last:
            kernels.append(Kernel(f"neighbours {d}", fixed=4 * 27 * s.splits[d] * 2 + 4 * nodes))
    return Stage("growth", kernels, reads=len(depths), calls=1 + 3 * len(depths))


def decode(s: Sizes) -> Stage:
    """Surface points, normals and grasps of the occupied nodes."""
    return Stage("decode", [Kernel("decode", fixed=s.grasps * (4 * SIGNAL + 8 + POINT_BYTES + GRASP_BYTES))])


def refine(s: Sizes) -> Stage:
    """`zg_cuda_refine_grasps`, a sort by score, and `zg_cuda_suppress_grasps`, one block that walks through all."""
    cells = 4 << 20
    cloud = 12 * s.scene_points
    kernels = [
        _memset(f"grid {i}", size) for i, size in enumerate((32, 4096, cells, 16 * s.scene_points))
    ] + [
        Kernel("visible points", fixed=4 * s.pixels // 5 + cloud),
        Kernel("bounds", fixed=cloud),
        Kernel("reach", fixed=48 * s.grasps),
        Kernel("shape", fixed=64),
        Kernel("count", fixed=cloud + 4 * s.scene_points),
        Kernel("sum cells", fixed=2 * cells),
        Kernel("sum blocks", fixed=8192),
        Kernel("add blocks", fixed=2 * cells),
        Kernel("scatter", fixed=cloud + 24 * s.scene_points),
        Kernel("refine", fixed=72 * s.grasps + 16 * s.scene_points, threads=s.grasps, work="grasp"),
        *(Kernel(f"sort {i}", fixed=16 * s.candidates) for i in range(8)),
        Kernel("order", fixed=2 * GRASP_BYTES * s.candidates),
        Kernel("suppress", threads=s.candidates, executed=s.suppression_pairs, work="suppression"),
    ]
    return Stage("refine", kernels, reads=1, calls=4)


def download(s: Sizes) -> Stage:
    """Surface points with normals, and the grasps that are left, or all of them without refinement."""
    return Stage("download", [], copies=s.grasps * POINT_BYTES + s.kept * GRASP_BYTES, reads=1, calls=2)
