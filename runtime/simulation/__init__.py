"""Simulated worlds: solids, supports, physics, rendering, a free two-finger gripper (extra `sim`)."""
