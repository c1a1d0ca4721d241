"""The network's octree operations on the native core, with gradients: several times faster than ocnn's on a CPU.

They serve training, where every step runs them, on float32 tensors in main memory. Everything else (a GPU, float64,
an install without the native core) runs ocnn's modules, and so does inference: there the PyTorch network is the
independent reference that the runtime's own kernels are verified against. `backend` overrules the choice.

Tables and indices are int32 (the kernels' type). A `Function` here saves what its backward pass reads and nothing
else; the gradient of a gather is a gather by the inverse index, never a scatter.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from ocnn.octree import Octree
from torch import Tensor, nn
from torch.nn import functional as F

BACKENDS = ("auto", "native", "ocnn")
MAX_NATIVE_DEPTH = 10  # of the native octree build

_state = threading.local()
_tables: WeakKeyDictionary[Octree, dict[int, tuple[Tensor, Tensor, Tensor]]] = WeakKeyDictionary()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Chooses who computes the octree operations of this thread, while active.

    Args:
        name: `auto`: the native core for modules in training mode; `native`: the native core also in evaluation
            mode, for a fast validation; `ocnn`: ocnn and PyTorch always. The native core is used where it can:
            float32 on the CPU.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    before = getattr(_state, "backend", "auto")
    _state.backend = name
    try:
        yield
    finally:
        _state.backend = before


def native(x: Tensor, training: bool) -> bool:
    """Whether the native core computes an operation on `x` for a module that is in `training` mode or not."""
    name = getattr(_state, "backend", "auto")
    if name == "ocnn" or (name == "auto" and not training):
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and _has_core()


@cache
def _has_core() -> bool:
    return find_spec("zerograsp_edge.kernels._core") is not None


def _workspace() -> Any:
    from zerograsp_edge.kernels.workspace import Workspace

    if not hasattr(_state, "workspace"):
        _state.workspace = Workspace()
    return _state.workspace


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


# Structure


def neighbour_table(octree: Octree, depth: int) -> Tensor:
    """Neighbours of all nodes of a depth, (27, N) int32 tap-major, -1 where one is missing.

    They follow from `octree.children` of the depths above; `octree.neighs` is neither needed nor made. Computed once
    for an octree's state.
    """
    return _table(octree, depth)[2]


def _table(octree: Octree, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """What `depth`'s table was made from (children of the depth above), their own table, and the table."""
    from zerograsp_edge.kernels.octree import expand_neighbours, split_neighbours

    known = _tables.setdefault(octree, {})
    above = octree.children[depth - 1]
    found = known.get(depth)
    if found is not None and found[0] is above:
        return found
    threads = torch.get_num_threads()
    if depth <= octree.full_depth + 1:
        parents: Any = depth - 1
    else:
        parents = _table(octree, depth - 1)[1].numpy()
    split = split_neighbours(_numpy(above), parents, threads=threads)
    table = expand_neighbours(split, threads=threads)
    known[depth] = (above, torch.from_numpy(split), torch.from_numpy(table))
    return known[depth]


def ensure_neighbours(octree: Octree, depth: int) -> None:
    """Gives the octree ocnn's own tables, where ocnn's modules are going to need `depth`'s."""
    if octree.neighs[depth] is None:
        octree.construct_all_neigh()


def split_rows(octree: Octree, depth: int) -> Tensor:
    """Rows of the split nodes of a depth, (S,) int32."""
    return octree.nempty_index(depth).int()


def align(source_keys: Tensor, target_keys: Tensor) -> Tensor:
    """For every target key the row of the equal source key, -1 without one: (N,) int32. Both ascend."""
    from zerograsp_edge.kernels.octree import align as align_keys

    return torch.from_numpy(
        align_keys(_numpy(source_keys), _numpy(target_keys), threads=torch.get_num_threads())
    )


def build_octree(points: Sequence[Tensor], depth: int, full_depth: int) -> tuple[Octree, Tensor, Tensor]:
    """What ocnn's `build_octree` of every cloud and `merge_octrees` give, without neighbours and features.

    Args:
        points: per object (N_i, 3) float32 on the CPU, normalised to [-1, 1).
    Returns:
        The octree with keys, children, counts and the mean point of every finest voxel; (P,) int64, the voxel
        of every point; (V, 1) float32, the number of points in every voxel.
    """
    from zerograsp_edge.kernels.octree import build_octree as build

    cloud = torch.cat(tuple(points))
    counts = np.array([len(p) for p in points], np.int32)
    threads = torch.get_num_threads()
    built = build(_numpy(cloud), counts, depth, full_depth, workspace=_workspace(), threads=threads)
    octree = Octree(depth, full_depth, len(points))
    for d in range(full_depth):
        octree.octree_grow_full(d, update_neigh=False)
    for d in range(full_depth, depth + 1):
        octree.keys[d] = torch.from_numpy(built.keys[d])
        octree.children[d] = torch.from_numpy(built.children[d])
    octree.batch_nnum = torch.from_numpy(built.batch_nnum)
    octree.batch_nnum_nempty = torch.from_numpy(built.batch_nnum_split)
    octree.nnum, octree.nnum_nempty = octree.batch_nnum.sum(1), octree.batch_nnum_nempty.sum(1)
    voxel = torch.from_numpy(built.voxel).long()
    voxels = int(octree.nnum_nempty[depth])
    count = torch.bincount(voxel, minlength=voxels).float()[:, None]
    # As ocnn scales them: a point's voxel is the integer part.
    octree.points[depth] = voxel_sum((cloud + 1.0) * 2.0 ** (depth - 1), voxel, voxels) / count
    return octree, voxel, count


def voxel_sum(values: Tensor, voxel: Tensor, voxels: int) -> Tensor:
    """Sum of the rows of `values` (P, C) in every voxel, (V, C)."""
    return values.new_zeros(voxels, values.shape[1]).index_add(0, voxel, values)


# Operations with gradients


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        from zerograsp_edge.kernels.convolution import PackedWeight, octree_conv

        ctx.save_for_backward(x, weight, table)
        packed = PackedWeight(_numpy(weight))
        y = octree_conv(_numpy(x), table.numpy(), packed, trusted=True, threads=torch.get_num_threads())
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from zerograsp_edge.kernels.convolution import PackedWeight, octree_conv
        from zerograsp_edge.kernels.training import conv_weight_gradient

        x, weight, table = ctx.saved_tensors
        dy, threads = _numpy(grads[0]), torch.get_num_threads()
        dx = dw = None
        if ctx.needs_input_grad[0]:
            mirrored = PackedWeight.mirrored(_numpy(weight))
            dx = torch.from_numpy(octree_conv(dy, table.numpy(), mirrored, trusted=True, threads=threads))
        if ctx.needs_input_grad[1]:
            dw = torch.from_numpy(
                conv_weight_gradient(
                    _numpy(x), table.numpy(), dy, trusted=True, workspace=_workspace(), threads=threads
                )
            )
        return dx, dw, None


def convolution(x: Tensor, weight: Tensor, octree: Octree, depth: int) -> Tensor:
    """3x3x3 convolution over the nodes of a depth: x (N, cin), weight (27, cin, cout) -> (N, cout)."""
    return _Convolution.apply(x, weight, neighbour_table(octree, depth))


class _Linear(torch.autograd.Function):
    """x W^T + bias for a weight (out, in) as nn.Linear has it, or x W + bias for (in, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        from zerograsp_edge.kernels.convolution import octree_linear

        ctx.save_for_backward(x, weight)
        ctx.transposed = transposed
        packed = _pack_linear(weight, bias, transposed)
        return torch.from_numpy(octree_linear(_numpy(x), packed, threads=torch.get_num_threads()))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from zerograsp_edge.kernels.convolution import octree_linear
        from zerograsp_edge.kernels.training import conv_weight_gradient

        x, weight = ctx.saved_tensors
        dy, threads = _numpy(grads[0]), torch.get_num_threads()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            packed = _pack_linear(weight, None, not ctx.transposed)
            dx = torch.from_numpy(octree_linear(dy, packed, threads=threads))
        if ctx.needs_input_grad[1]:
            pair = (dy, _numpy(x)) if ctx.transposed else (_numpy(x), dy)
            gradient = conv_weight_gradient(pair[0], None, pair[1], workspace=_workspace(), threads=threads)
            dw = torch.from_numpy(gradient[0])
        if ctx.needs_input_grad[2]:
            db = grads[0].sum(0)
        return dx, dw, db, None


def _pack_linear(weight: Tensor, bias: Tensor | None, transposed: bool) -> Any:
    from zerograsp_edge.kernels.convolution import PackedWeight

    matrix = weight.detach().t() if transposed else weight
    return PackedWeight(_numpy(matrix)[None], None if bias is None else _numpy(bias))


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """What the layer computes: x (N, in) -> (N, out)."""
    return _product(x, layer.weight, layer.bias, True)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """x W^T + bias for a weight (out, in), x W + bias for (in, out)."""
    # Measured: PyTorch's matrix product is made for wide matrices.
    if len(x) >= 4096 and min(weight.shape) <= 32:
        return _Linear.apply(x, weight, bias, transposed)
    return F.linear(x, weight if transposed else weight.t(), bias)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, base: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse)
        return _gathered(x, index, base)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        dx = _gathered(grads[0], inverse, None) if ctx.needs_input_grad[0] else None
        return dx, None, None, grads[0] if ctx.needs_input_grad[3] else None


def _gathered(x: Tensor, index: Tensor, base: Tensor | None) -> Tensor:
    from zerograsp_edge.kernels.training import gather_rows

    under = None if base is None else _numpy(base)
    threads = torch.get_num_threads()
    return torch.from_numpy(gather_rows(_numpy(x), index.numpy(), under, trusted=True, threads=threads))


def gather(x: Tensor, index: Tensor, inverse: Tensor, base: Tensor | None = None) -> Tensor:
    """base[i] + x[index[i]], (N, C); -1 adds nothing, no base counts as zeros.

    Args:
        x: (M, C).
        index: (N,) int32, no row of x twice.
        inverse: (M,) int32, where each row of x goes, -1 if nowhere.
        base: (N, C).
    """
    return _Gather.apply(x, index, inverse, base)


def downsample(x: Tensor, weight: Tensor, octree: Octree, depth: int) -> Tensor:
    """8 siblings to their parent, zeros for a node without children: (N_d, cin), (8, cin, cout) -> (N_{d-1}, cout)."""
    siblings = _product(x.view(-1, 8 * x.shape[1]), weight.flatten(0, 1), None, False)
    return gather(siblings, octree.children[depth - 1], split_rows(octree, depth - 1))


def upsample(x: Tensor, weight: Tensor, octree: Octree, depth: int) -> Tensor:
    """Every split node to its 8 children: (N_d, cin), (8, cout, cin) -> (N_{d+1}, cout)."""
    parents = gather(x, split_rows(octree, depth), octree.children[depth])
    return _product(parents, weight.flatten(0, 1), None, True).view(-1, weight.shape[1])


def add_aligned(x: Tensor | None, skip: Tensor, source_keys: Tensor, target_keys: Tensor) -> Tensor:
    """x (N, C) plus, at every target key, the row of `skip` (M, C) at the equal source key, if there is one."""
    return gather(skip, align(source_keys, target_keys), align(target_keys, source_keys), x)


class _Normalisation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        activation: str,
    ) -> Tensor:
        from zerograsp_edge.kernels.training import normalise

        ctx.save_for_backward(x, weight, bias, residual, mean, inverse)
        ctx.activation = activation
        below = None if residual is None else _numpy(residual)
        y = normalise(
            _numpy(x), _numpy(mean), _numpy(inverse), _numpy(weight), _numpy(bias), activation, below,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from zerograsp_edge.kernels.training import normalise_gradient

        x, weight, bias, residual, mean, inverse = ctx.saved_tensors
        below = None if residual is None else _numpy(residual)
        gradients = normalise_gradient(
            _numpy(grads[0]), _numpy(x), _numpy(mean), _numpy(inverse), _numpy(weight), _numpy(bias),
            ctx.activation, below, workspace=_workspace(), threads=torch.get_num_threads(),
        )  # fmt: skip
        dx, dweight, dbias, dresidual = (None if g is None else torch.from_numpy(g) for g in gradients)
        return dx, dweight, dbias, dresidual, None, None, None


_ACTIVATIONS = {"none": lambda z: z, "gelu": F.gelu, "elu": F.elu}


def normalise(bn: nn.BatchNorm1d, x: Tensor, activation: str, residual: Tensor | None = None) -> Tensor:
    """activation(bn(x) + residual) in one pass forward and two backward: (N, C) -> (N, C).

    In training mode with the statistics of x, which update the running ones as PyTorch's module does.

    Args:
        activation: none, gelu (exact) or elu.
        residual: (N, C).
    """
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or bn.weight.requires_grad or (residual is not None and residual.requires_grad)
    )
    # Too few rows are PyTorch's to refuse; fixed statistics have another gradient.
    if (bn.training and len(x) < 2) or (not bn.training and differentiable):
        z = bn(x)
        return _ACTIVATIONS[activation](z if residual is None else z + residual)
    if bn.training:
        mean, variance = _statistics(bn, x.detach())
    else:
        assert bn.running_mean is not None and bn.running_var is not None
        mean, variance = bn.running_mean, bn.running_var
    inverse = (variance + bn.eps).rsqrt()
    return _Normalisation.apply(x, bn.weight, bn.bias, residual, mean, inverse, activation)


def _statistics(bn: nn.BatchNorm1d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of x; the module's running statistics move towards them."""
    from zerograsp_edge.kernels.training import batch_statistics

    arrays = batch_statistics(_numpy(x), workspace=_workspace(), threads=torch.get_num_threads())
    mean, variance = (torch.from_numpy(a) for a in arrays)
    assert bn.num_batches_tracked is not None and bn.momentum is not None
    assert bn.running_mean is not None and bn.running_var is not None
    bn.num_batches_tracked.add_(1)
    bn.running_mean.lerp_(mean, bn.momentum)
    bn.running_var.lerp_(variance * (len(x) / (len(x) - 1)), bn.momentum)
    return mean, variance


class _GridConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        from zerograsp_edge.kernels.convolution import PackedWeight, grid_conv

        taps = _taps(weight)
        below = None if residual is None else _numpy(residual)
        y = torch.from_numpy(
            grid_conv(
                _numpy(x),
                PackedWeight(taps, _numpy(bias)),
                "elu",
                residual=below,
                threads=torch.get_num_threads(),
            )
        )
        ctx.save_for_backward(x, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from zerograsp_edge.kernels.convolution import PackedWeight, grid_conv
        from zerograsp_edge.kernels.training import grid_weight_gradient

        x, weight, y = ctx.saved_tensors
        threads = torch.get_num_threads()
        dz = torch.ops.aten.elu_backward(grads[0].contiguous(), 1.0, 1.0, 1.0, True, y)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = torch.from_numpy(
                grid_conv(dz.numpy(), PackedWeight.mirrored(_taps(weight)), threads=threads)
            )
        if ctx.needs_input_grad[1]:
            gradient = grid_weight_gradient(_numpy(x), dz.numpy(), workspace=_workspace(), threads=threads)
            dw = (
                torch.from_numpy(gradient)
                .view(3, 3, 3, *gradient.shape[1:])
                .permute(4, 3, 0, 1, 2)
                .contiguous()
            )
        return dx, dw, dz.flatten(0, 3).sum(0), dz if ctx.needs_input_grad[3] else None


def _taps(weight: Tensor) -> np.ndarray:
    """nn.Conv3d's weight (cout, cin, 3, 3, 3) as (27, cin, cout)."""
    return _numpy(weight.detach().permute(2, 3, 4, 1, 0).reshape(27, weight.shape[1], weight.shape[0]))


def grid_convolution_elu(x: Tensor, conv: nn.Conv3d, residual: Tensor | None = None) -> Tensor:
    """ELU(conv(x) + residual) on dense grids, channels last: (N, r, r, r, cin) -> (N, r, r, r, cout).

    Args:
        conv: 3x3x3 with bias and zero padding.
        residual: (N, r, r, r, cout).
    """
    return _GridConvolution.apply(x, conv.weight, conv.bias, residual)
