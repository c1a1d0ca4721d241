"""Weights of a state dict with their BatchNorm folded in, in the layout that the domain's nodes expect."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BLOCK_EPS = 1e-3  # BatchNorm of the blocks named ...BnElu
OCNN_EPS = 1e-5  # BatchNorm of ocnn's own Conv1x1Bn and FcBnRelu


class Weights:
    """Reads `prefix.name` entries of a state dict as float64: folding rounds once, to float32, at the end."""

    def __init__(self, state: Mapping[str, np.ndarray], prefix: str = "") -> None:
        self._state = state
        self._prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._state[self._prefix + name], np.float64)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._state

    def scope(self, name: str) -> Weights:
        return Weights(self._state, f"{self._prefix}{name}.")

    def batch_norm(self, name: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift (C,) that the BatchNorm `name` amounts to at inference."""
        scale = self[f"{name}.weight"] / np.sqrt(self[f"{name}.running_var"] + eps)
        return scale, self[f"{name}.bias"] - self[f"{name}.running_mean"] * scale

    def conv(self, name: str, eps: float = BLOCK_EPS) -> tuple[np.ndarray, np.ndarray]:
        """ocnn's OctreeConv `name.conv` + `name.bn` as weight (taps, cin, cout) and bias (cout,)."""
        scale, shift = self.batch_norm(f"{name}.bn", eps)
        return self[f"{name}.conv.weights"] * scale, shift

    def deconv(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """OctreeDeconv `name.deconv` (8, cout, cin) + `name.bn` as weight (8, cin, cout), bias (cout,)."""
        scale, shift = self.batch_norm(f"{name}.bn", BLOCK_EPS)
        return self[f"{name}.deconv.weights"].transpose(0, 2, 1) * scale, shift

    def linear_bn(self, name: str, eps: float, linear: str = "conv.linear") -> tuple[np.ndarray, np.ndarray]:
        """A bias-free Linear `name.<linear>` + `name.bn` as weight (1, cin, cout) and bias (cout,)."""
        scale, shift = self.batch_norm(f"{name}.bn", eps)
        return (self[f"{name}.{linear}.weight"] * scale[:, None]).T[None], shift
