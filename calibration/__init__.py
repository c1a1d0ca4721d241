"""What is measured before deployment. Hand-eye is there; INT8 ranges and camera intrinsics are not yet."""
