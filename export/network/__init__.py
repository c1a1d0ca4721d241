"""The ZeroGrasp network (CVPR 2025, arXiv 2504.10857) on PyTorch and ocnn.

    from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp, prepare_frame

    config = NetworkConfig.published()
    network = ZeroGrasp(config).eval()
    prediction = network(prepare_frame(config, rgb, depth, mask, intrinsics))

`NetworkConfig` alone can be imported without PyTorch: `zerograsp_edge.export.network.config`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import ConfigError, NetworkConfig

if TYPE_CHECKING:
    from .preprocess import FrameInputs, NoObjectsError, prepare_frame
    from .zerograsp import Encoding, Prediction, TrainingPrediction, ZeroGrasp

__all__ = [
    "ConfigError",
    "Encoding",
    "FrameInputs",
    "NetworkConfig",
    "NoObjectsError",
    "Prediction",
    "TrainingPrediction",
    "ZeroGrasp",
    "prepare_frame",
]

_MODULE_OF = {
    "FrameInputs": "preprocess",
    "NoObjectsError": "preprocess",
    "prepare_frame": "preprocess",
    "Encoding": "zerograsp",
    "Prediction": "zerograsp",
    "TrainingPrediction": "zerograsp",
    "ZeroGrasp": "zerograsp",
}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch on first use, and say which extra is missing when it is not installed."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "ocnn", "segmentation_models_pytorch"):
            raise ModuleNotFoundError(
                f"the network needs the package {error.name!r}: pip install 'zerograsp-edge[export]'",
                name=error.name,
            ) from error
        raise
