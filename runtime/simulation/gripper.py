"""A free-floating two-finger parallel gripper in MuJoCo, and trials of grasps with it.

Geometry in the grasp's frame (x approach, y closing, z height; network.md, "Grasp refinement"): two fingers 10 mm
thick and 20 mm high reach from -20 mm to the grasp's depth; the palm joins them from -30 to -20 mm.
"""

from __future__ import annotations

FINGER_THICKNESS_MM, FINGER_HEIGHT_MM = 10.0, 20.0
FINGER_REAR_MM, PALM_REAR_MM = -20.0, -30.0
MAX_OPENING_MM, MAX_DEPTH_MM = 100.0, 40.0
APPROACH_MM = 80.0  # the gripper comes straight in from here
