"""What is measured before deployment: the camera, hand-eye, and the ranges of activations that decide a layer's precision."""
