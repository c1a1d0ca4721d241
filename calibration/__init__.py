"""What is measured before deployment: hand-eye, and the ranges of activations that decide a layer's precision."""
