"""The sub-commands of `zerograsp-edge`, one per module."""
