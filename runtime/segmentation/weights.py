"""Weights of the boundary scores: `benchmarks/parts/segmentation_fit.py` fits them and prints this file."""

from __future__ import annotations

import numpy as np

# In the order of boundary.FEATURES, REGION_FEATURES and OBJECT_FEATURES.
# fmt: off
BOUNDARY_WEIGHTS = np.array([
    5.059, -0.737, 0.158, -1.471, -0.185, 0.847, -2.515, -0.553, 0.034, -0.162, 0.546, -0.240,
    4.502, 1.399, -0.440
])
REGION_WEIGHTS = np.array([
    3.539, 0.543, 0.206, -0.015, -0.212, -0.275, 0.415, -0.091, -1.464, 0.428, 0.357, -0.026, 0.086,
    -0.352, -0.109
])
OBJECT_WEIGHTS = np.array([
    -2.208, -0.477, -2.256, 0.715, -3.687, 0.820, 0.287, -0.441, -1.060, -0.494, -0.153
])
# fmt: on
