"""What is measured before deployment: camera, hand-eye, and ranges of activations, which decide on precision."""
