"""The PyTorch side: checkpoints, the ZeroGrasp network, and its export into deployment bundles.

Needs `pip install 'zerograsp-edge[export]'`. Nothing in `zerograsp_edge.runtime` or `zerograsp_edge.kernels` imports it.
"""
