"""What is measured before deployment: INT8 ranges, camera intrinsics, hand-eye. No part of it is there yet."""
