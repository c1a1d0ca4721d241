"""Training of the network on synthetic scenes: scenes, targets, losses, the training loop."""
