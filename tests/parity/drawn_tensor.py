"""Tensors drawn by name; tests/cases/drawn_tensor.rs draws the same ones."""

import math

import numpy as np
import torch
from seed import bits


def draw(name, shape, low=-1.0, high=1.0):
    """Uniform float32 in [low, high)."""
    u = (bits(name, math.prod(shape)) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return torch.from_numpy((low + (high - low) * u).astype(np.float32).reshape(shape))


def bound(name, shape):
    """Half the width of a weight's interval: He et al. 2015, but deltas small enough to stay boxes."""
    he = math.sqrt(6.0 / math.prod(shape[1:]))
    if "reg" in name or "bbox_pred" in name:
        return 0.04 * he
    return he


def filled(name, shape):
    """A tensor of a state dict; variances and scales near 1."""
    if len(shape) == 1 and (name.endswith("weight") or name.endswith("running_var")):
        return draw(name, shape, 0.5, 1.5)
    if ".weights" in name:
        return draw(name, shape, -0.2, 1.5)
    if len(shape) == 1:
        return draw(name, shape, -0.2, 0.2)
    b = bound(name, shape)
    return draw(name, shape, -b, b)


def fill(module):
    """Draws every tensor of the state dict by its name."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(filled(name, list(tensor.shape)))
