"""Fixtures of the PyTorch side: the published network on the reference frames, and a synthetic scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")

from PIL import Image  # noqa: E402

from zerograsp_edge.export.network import NetworkConfig, Prediction, ZeroGrasp, prepare_frame  # noqa: E402
from zerograsp_edge.export.network.preprocess import FrameInputs  # noqa: E402


@pytest.fixture(scope="session")
def published_network(golden_state: dict[str, np.ndarray]) -> ZeroGrasp:
    """The published network with the recipe's weights; the constants are the network's own."""
    network = ZeroGrasp(NetworkConfig.published()).eval()
    state = {name.removeprefix("model."): torch.from_numpy(value) for name, value in golden_state.items()}
    for name, value in network.state_dict().items():
        if name.endswith(("ofe_offset", "grid_offset", "face_offset", "rotary_embeddings.freqs")):
            state[name] = value
    network.load_state_dict(state, strict=True)
    return network


@pytest.fixture(scope="session")
def golden_frame(golden: dict[str, np.ndarray], frames_dir: Path) -> FrameInputs:
    case = str(golden["case"])
    rgb, depth, mask = (
        np.array(Image.open(frames_dir / f"{case}.{kind}.png")) for kind in ("rgb", "depth", "mask")
    )
    if case == "007":
        rgb, depth, mask = rgb[14:526], depth[14:526], mask[14:526]
    return prepare_frame(NetworkConfig.published(), rgb, depth, mask, golden["K"])


@dataclass
class GoldenRun:
    """One forward pass of the published network with recorded occlusion flags and recorded splits."""

    prediction: Prediction
    taps: dict[str, torch.Tensor]
    statistics: dict[str, tuple[int, float, float, float]]


def recorded_flags(golden: dict[str, np.ndarray]) -> torch.Tensor:
    """(N, 2, 8, 8, 8) float32."""
    n, samples, kinds = golden["ofe/shape"]
    bits = np.unpackbits(golden["ofe/bits"], count=n * samples * kinds).reshape(n, 8, 8, 8, kinds)
    return torch.from_numpy(bits).permute(0, 4, 1, 2, 3).float()


def recorded_splits(golden: dict[str, np.ndarray]) -> dict[int, torch.Tensor]:
    return {
        d: torch.from_numpy(
            np.unpackbits(golden[f"out/split{d}"], count=len(golden[f"out/keys{d}"])).astype(bool)
        )
        for d in range(4, 10)
    }


@pytest.fixture(scope="session")
def golden_flags(golden: dict[str, np.ndarray]) -> torch.Tensor:
    return recorded_flags(golden)


@pytest.fixture(scope="session")
def golden_splits(golden: dict[str, np.ndarray]) -> dict[int, torch.Tensor]:
    return recorded_splits(golden)


@pytest.fixture(scope="session")
def golden_run(
    published_network: ZeroGrasp,
    golden_frame: FrameInputs,
    golden_flags: torch.Tensor,
    golden_splits: dict[int, torch.Tensor],
) -> GoldenRun:
    statistics: dict[str, tuple[int, float, float, float]] = {}
    names = [f"backbone.encoder.layer{i}" for i in (1, 2, 3, 4)] + [
        f"backbone.decoder.blocks.{i}" for i in range(5)
    ]
    handles = []
    for name in ["backbone", *names]:

        def hook(_module: object, _args: object, x: torch.Tensor, name: str = name) -> None:
            statistics[name] = (
                x.numel(),
                x.double().mean().item(),
                x.double().std().item(),
                x.abs().max().item(),
            )

        handles.append(published_network.get_submodule(name).register_forward_hook(hook))
    taps: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        prediction = published_network(
            golden_frame, occlusion=golden_flags, forced_splits=golden_splits, taps=taps
        )
    for handle in handles:
        handle.remove()
    return GoldenRun(prediction, taps, statistics)


@dataclass
class Scene:
    """A rendered RGB-D frame with instance masks."""

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray
    intrinsics: np.ndarray


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Three spheres before a wall, 128x96 pixels; the first two touch in the image."""
    height, width, focal = 96, 128, 110.0
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u, float)], -1)
    depth = np.full((height, width), 700.0)
    mask = np.zeros((height, width), np.uint8)
    spheres = [((-60.0, 0.0, 500.0), 50.0), ((30.0, 10.0, 520.0), 45.0), ((180.0, 100.0, 560.0), 40.0)]
    for label, (centre, radius) in enumerate(spheres, start=1):
        a, b = (rays**2).sum(-1), rays @ np.array(centre)
        discriminant = b**2 - a * (np.dot(centre, centre) - radius**2)
        z = (b - np.sqrt(np.maximum(discriminant, 0))) / a
        hit = (discriminant > 0) & (z < depth)
        depth[hit], mask[hit] = z[hit], label * 10
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Scene(rgb, depth.round().astype(np.uint16), mask, intrinsics)
