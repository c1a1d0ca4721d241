"""What differs between two bundles of one network, or two executors: from the stages' tensors to grasps and picks."""
