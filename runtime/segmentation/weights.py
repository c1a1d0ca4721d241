"""Weights of the boundary scores: `benchmarks/parts/segmentation_fit.py` fits them and prints this file."""

from __future__ import annotations

import numpy as np

# In the order of boundary.FEATURES, REGION_FEATURES and OBJECT_FEATURES.
# fmt: off
BOUNDARY_WEIGHTS = np.array([5.597, -0.528, 0.044, -1.854, -0.595, 0.249, -2.105, -0.302, -0.224, -0.174, 0.615, -0.109, 1.717, 0.424, -0.380])
REGION_WEIGHTS = np.array([3.334, -0.039, 1.154, 0.008, -0.356, -0.512, 0.355, -0.076, -1.856, 0.533, 0.426, -0.355, 0.166, -0.389, -0.024])
OBJECT_WEIGHTS = np.array([-0.161, -0.817, -0.122, 0.328, -3.225, 0.967, -0.309, 0.496, -0.157, -0.197])
# fmt: on
