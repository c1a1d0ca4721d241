"""Weights of the boundary scores: `benchmarks/parts/segmentation_fit.py` fits them and prints this file."""

from __future__ import annotations

import numpy as np

# In the order of boundary.FEATURES, REGION_FEATURES and OBJECT_FEATURES.
# fmt: off
BOUNDARY_WEIGHTS = np.array([5.405, -1.062, -0.421, -1.342, -0.047, 0.788, -2.649, -0.223, -0.424, -0.277, 0.461, -0.344, 0.070, 1.202, -0.011])
REGION_WEIGHTS = np.array([2.059, 0.580, 0.445, 0.129, -0.032, -0.456, 0.431, -0.627, -2.042, 1.944, 0.349, 1.011, 0.024, -0.193, 0.117])
OBJECT_WEIGHTS = np.array([-3.019, -0.379, -2.236, 0.653, -3.595, 1.055, 0.582, -0.711, -1.025, 0.017, -0.415])
# fmt: on
