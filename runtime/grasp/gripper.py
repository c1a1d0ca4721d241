"""Grippers: their geometry as collision checks see it, and presets."""

from __future__ import annotations

from dataclasses import dataclass, field

from zerograsp_edge.kernels.hand import Hand


@dataclass(frozen=True)
class Gripper:
    """A parallel-jaw gripper.

    Attributes:
        name: for reports.
        hand: its boxes in the grasp frame, m, and the clearances that refinement keeps.
    """

    name: str = "zerograsp"
    hand: Hand = field(default_factory=Hand)


# What the published post-processing assumes: no particular hand, fingers of 10 x 20 mm that open to any width.
ZEROGRASP = Gripper()

# The free gripper of `runtime/simulation/gripper.py` with its fingers at their longest: the hand of SimulatedRobot.
SIMULATED = Gripper("simulated", Hand(finger_length=0.06, max_opening=0.1))

# Franka Hand, from the manufacturer's franka_description: in end_effectors/common/franka_hand.xacro the rubber tip is
# 15.2 mm thick, a finger's widest box 22 mm, and the hand's capsule (radius 40 mm, 100 mm long) 180 x 80 mm across;
# each finger opens by 40 mm. A finger's mesh ends 53.9 mm beyond the plane of the finger joints, which is where the
# palm begins here, 58.4 mm from the flange; the TCP of Desk (103.4 mm) lies 8.9 mm before those ends.
FRANKA = Gripper(
    "franka",
    Hand(
        finger_thickness=0.0152,
        finger_height=0.022,
        finger_length=0.0539,
        palm_thickness=0.0584,
        palm_width=0.18,
        palm_height=0.08,
        max_opening=0.08,
    ),
)

# Robotiq 2F-85. Pads of 22 x 37.5 mm and 8 mm thick: MuJoCo Menagerie, robotiq_2f85/2f85.xml, pad_box1 and pad_box2.
# From the flange to the joints of the fingertips 98 mm, and 124 mm between the outermost joints when open: URDF of
# ros2_robotiq_gripper. Estimated on top of those, not published: a finger is twice as thick as its pad, for the link
# that carries it; the links around the outermost joints make it 150 mm wide, the round body 75 mm high.
ROBOTIQ_2F85 = Gripper(
    "robotiq_2f85",
    Hand(
        finger_thickness=0.016,
        finger_height=0.022,
        finger_length=0.0375,
        palm_thickness=0.098,
        palm_width=0.15,
        palm_height=0.075,
        max_opening=0.085,
    ),
)

GRIPPERS = {gripper.name: gripper for gripper in (ZEROGRASP, SIMULATED, FRANKA, ROBOTIQ_2F85)}


def gripper_preset(name: str) -> Gripper:
    """The preset of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in GRIPPERS:
        raise ValueError(f"gripper: expected one of {', '.join(GRIPPERS)}, got {name!r}")
    return GRIPPERS[name]
