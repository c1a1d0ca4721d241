"""The PyTorch side: checkpoints, the ZeroGrasp network, and its export into deployment bundles.

Needs `pip install 'zerograsp-edge[export]'`. Nothing in `runtime` or `kernels` imports it.
"""
