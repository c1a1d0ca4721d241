"""Reference outputs that travel in a bundle: what PyTorch computes for one simulated frame, stage by stage.

`zerograsp-edge verify` compares the executor on the deployed machine with them. Of large tensors a sample of
rows is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from zerograsp_edge.export.network.preprocess import prepare_frame
from zerograsp_edge.export.network.zerograsp import ZeroGrasp
from zerograsp_edge.runtime.frame import Frame

ROWS = 256  # rows kept of a tensor with more


def reference_outputs(network: ZeroGrasp, frame: Frame, seed: int = 0) -> dict[str, np.ndarray]:
    """Runs the network (float32, CPU, latent mean) on a frame.

    Args:
        network: in eval mode.
        frame: with an instance mask; its size must suit the image encoder.

    Returns:
        The frame (`frame/rgb`, `frame/depth`, `frame/mask`, `frame/intrinsics`), `object_ids`, `keys_<d>` and
        `split_<d>` (packed bits) of the output octree, and per stage tensor `<stage>/<tensor>` the entries
        `.../rows` (r,), `.../values` (r, C) and `.../scale`, the largest magnitude of the whole tensor.
    """
    config = network.config
    assert frame.mask is not None
    taps: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        inputs = prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)
        prediction = network(inputs, taps=taps)
    out: dict[str, Any] = {
        "frame/rgb": frame.rgb,
        "frame/depth": frame.depth,
        "frame/mask": frame.mask,
        "frame/intrinsics": frame.intrinsics,
        "object_ids": np.array(inputs.object_ids, np.int64),
    }
    rng = np.random.default_rng(seed)

    def keep(name: str, tensor: torch.Tensor) -> None:
        array = tensor.detach().numpy()
        rows = np.sort(rng.permutation(len(array))[:ROWS])
        out[f"{name}/rows"] = rows.astype(np.int64)
        out[f"{name}/values"] = array[rows].astype(np.float32)
        out[f"{name}/scale"] = np.float32(np.abs(array).max(initial=0.0))

    image = taps["backbone"] if "backbone" in taps else inputs.image[None]
    keep("image_encoder/image_features", image[0].flatten(1).t())
    for d in config.depths:
        if d > config.min_lod:
            keep(f"octree_encoder/skip_{d}", taps[f"encoder_blks.{config.max_lod - d}"])
        index = d - config.min_lod
        if d < config.max_lod:
            keep(f"decoder_{d}/features", taps[f"decoder_blks.{index}"])
            keep(f"decoder_{d}/logits", prediction.logits[d])
        else:
            keep(f"decoder_{d}/signal", taps[f"predict.{index}"])
        out[f"keys_{d}"] = prediction.octree.keys[d].numpy().astype(np.int64)
        out[f"split_{d}"] = np.packbits(prediction.split[d].numpy().astype(bool))
    tokens = f"mae_encoder.encoders.{config.transformer_layers - 1}" if config.multi_object else "conv2"
    keep("octree_encoder/tokens", taps[tokens])
    keep("octree_encoder/latent_mean", prediction.encoding.mean)
    return out
