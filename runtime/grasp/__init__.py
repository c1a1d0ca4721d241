"""From the network's signal to executable grasps."""
