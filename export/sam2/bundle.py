"""Writes a bundle of SAM 2, and compares its stages with the network that they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zerograsp_edge.export.bundle_folder import bundle_folder, save_stage, versions, write_manifest
from zerograsp_edge.export.image_encoder import MEAN, STD
from zerograsp_edge.export.sam2.image_encoder import image_encoder
from zerograsp_edge.export.sam2.mask_decoder import mask_decoder
from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor
from zerograsp_edge.runtime.bundle import BundleError
from zerograsp_edge.runtime.segmentation.sam2_bundle import SAM2, Sam2Bundle, load_sam2_bundle
from zerograsp_edge.runtime.segmentation.sam2_network import Sam2Network

TOLERANCE = 1e-3
"""Largest difference of a tensor, relative to its largest value, at which stages count as the network."""


def write_sam2_bundle(
    network: Any,
    path: str | Path,
    *,
    config: str,
    trained: bool,
    provenance: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda step: None,
    overwrite: bool = False,
) -> Sam2Bundle:
    """Exports a network as a bundle; the folder appears complete, compared with the network, or not at all.

    Args:
        network: `sam2.modeling.sam2_base.SAM2Base` in eval mode on the CPU.
        config: its name in the package `sam2`.
        trained: False marks random weights.
        overwrite: replace an existing bundle of SAM 2.

    Raises:
        BundleError: the folder exists or holds something else, or the stages do not compute what the network does.
        ValueError: the network has a part that the stages do not know.
    """
    root = Path(path)
    with bundle_folder(root, SAM2, overwrite=overwrite) as folder:
        stages = {}
        for name, build in (("image_encoder", image_encoder), ("mask_decoder", mask_decoder)):
            progress(f"stage {name}")
            stages[name] = save_stage(folder, name, build(network))
        content = {
            "trained": trained,
            "network": {
                "config": config,
                "image_size": int(network.image_size),
                "channels": int(network.sam_prompt_encoder.embed_dim),
            },
            "normalisation": {"mean": MEAN.tolist(), "std": STD.tolist(), "in_graph": True},
            "stages": stages,
            "provenance": {**versions(), **(provenance or {})},
        }
        write_manifest(folder, SAM2, content)
        progress("comparing with PyTorch")
        differences = compare(network, load_sam2_bundle(folder, check=False))
        if wrong := {name: value for name, value in differences.items() if not value <= TOLERANCE}:
            raise BundleError(
                f"the stages differ from PyTorch by more than {TOLERANCE:g}: "
                + ", ".join(f"{name} by {value:.1e}" for name, value in wrong.items())
                + "; nothing was written"
            )
        write_manifest(folder, SAM2, {**content, "differences": differences})
    return load_sam2_bundle(root, check=False)


def compare(network: Any, bundle: Sam2Bundle, seed: int = 0) -> dict[str, float]:
    """Largest difference of each output of the stages from the network's, relative to the largest value.

    Of a random picture; the prompts are points on and beside an object, boxes, and padding.
    """
    random = np.random.default_rng(seed)
    size = bundle.image_size
    stages = Sam2Network(bundle, OnnxRuntimeExecutor(bundle), batch=3)
    # A picture with structure at every scale, of the encoder's size: resizing is not what is compared.
    picture = np.kron(random.uniform(0, 200, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
    rgb = (picture + random.uniform(0, 55, picture.shape)).astype(np.uint8)
    stages.encode(rgb)
    points = random.uniform(0, size, (3, 3, 2)).astype(np.float32)
    labels = np.array([[1, 0, 1], [2, 3, 1], [1, -1, -1]], np.int32)
    logits, iou = stages.decode(points, labels)
    embedding, details = encode(network, rgb)
    expected_logits, expected_iou = decode(network, embedding, details, points, labels)
    cells = size // 16
    eight, four = (d[0].permute(1, 2, 0).numpy() for d in details[::-1])
    expected = {
        "image_embedding": embedding[0].flatten(1).T.numpy(),
        "detail_8": eight.reshape(cells, 2, cells, 2, -1).transpose(0, 2, 1, 3, 4),
        "detail_4": four.reshape(cells, 2, 2, cells, 2, 2, -1).transpose(0, 3, 1, 4, 2, 5, 6),
        "logits": expected_logits.numpy(),
        "iou": expected_iou.numpy(),
    }
    got = {**stages.features, "logits": logits, "iou": iou}
    return {
        name: float(np.abs(got[name] - value.reshape(got[name].shape)).max() / np.abs(value).max())
        for name, value in expected.items()
    }


@torch.no_grad()
def encode(network: Any, rgb: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The network's own embedding (1, C, h, w) and details of stride 4 and 8 of a (S, S, 3) uint8 picture."""
    image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.from_numpy(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    maps = network.forward_image((image - mean) / std)["backbone_fpn"]
    embedding = maps[-1]
    if network.directly_add_no_mem_embed:
        embedding = embedding + network.no_mem_embed.reshape(1, -1, 1, 1)
    return embedding, maps[:-1]


@torch.no_grad()
def decode(
    network: Any, embedding: torch.Tensor, details: list[torch.Tensor], points: np.ndarray, labels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's own logits (B, 4, S / 4, S / 4) and predicted IoU (B, 4) of prompts."""
    prompts = network.sam_prompt_encoder
    sparse, dense = prompts(points=(torch.from_numpy(points), torch.from_numpy(labels)), boxes=None, masks=None)
    logits, iou, _, _ = network.sam_mask_decoder.predict_masks(
        embedding, prompts.get_dense_pe(), sparse, dense, repeat_image=True, high_res_features=details
    )
    return logits, iou
