"""The feature space in which images are compared: a small network that ships with the package.

It was trained by `train_features` on simulated scans of the public population only: no patient, no downloaded image and
none of the demo's hospitals. It tells anatomies, findings, acquisition and typical failures of generators apart; it
does not know what a radiologist knows, so a small distance here is necessary for realism, not sufficient.

Features have mean 0 and variance 1 on phantoms. They are comparable between sets of images of one shape only.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn import functional

from manikin.common.errors import BadData, VerificationFailed
from manikin.common.images import Float32Array

WEIGHTS = "features.safetensors"
WEIGHTS_SHA256 = "d8fc8b0973888cc59e88f7acd3b634393a3e28e74576530910555b186cc07df1"
FEATURES = 64
WIDTHS = {2: (16, 32, 48, 64), 3: (8, 16, 24, 32)}
GRID = {2: 4, 3: 3}  # regions a side in which the deepest layer is averaged
REGION_CHANNELS = {2: 32, 3: 16}
LONGEST_SIDE = {2: 80, 3: 48}
SMALLEST_SIDE = 8
BATCH_SIZE = {2: 256, 3: 16}


class FeatureNet(nn.Module):
    """Features (n, 64) of images (n, 1, *spatial): regional means of the last layer, mean and spread of all."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        convolution: Any = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        norm: Any = (nn.BatchNorm2d, nn.BatchNorm3d)[spatial_dims - 2]
        self.pool: Any = (functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)[spatial_dims - 2]
        self.grid, self.spatial_dims = GRID[spatial_dims], spatial_dims
        layers, before = [], 1
        for depth, width in enumerate(WIDTHS[spatial_dims]):
            stride = 2 if depth in (1, 2) or (spatial_dims == 3 and depth == 0) else 1
            layers.append(nn.Sequential(convolution(before, width, 3, stride, 1, bias=False), norm(width), nn.ReLU()))
            before = width
        self.layers = nn.ModuleList(layers)
        self.regions = convolution(before, REGION_CHANNELS[spatial_dims], 1)
        inputs = REGION_CHANNELS[spatial_dims] * self.grid**spatial_dims + 2 * sum(WIDTHS[spatial_dims])
        self.join = nn.Sequential(nn.Linear(inputs, FEATURES), nn.BatchNorm1d(FEATURES, affine=False))

    def forward(self, images: Tensor) -> Tensor:
        parts = []
        for layer in self.layers:
            images = layer(images)
            flat = images.flatten(2)
            parts += [flat.mean(2), (flat.var(2, correction=0) + 1e-6).sqrt()]
        parts.append(self.pool(self.regions(images), self.grid).flatten(1))
        features: Tensor = self.join(torch.cat(parts, 1))
        return features


def extract(images: Float32Array) -> Float32Array:
    """Features of images; each channel is read by itself, and the features of all channels are joined.

    Args:
        images: float32 (n, c, *spatial) in [-1, 1], two or three spatial dimensions of at least 8 voxels.

    Returns:
        float32 (n, 64 c).

    Raises:
        BadData: the shape is none of these, or a value is not finite.
        VerificationFailed: the weights that ship with the package were changed.
    """
    dims = images.ndim - 2
    if dims not in (2, 3) or min(images.shape[2:]) < SMALLEST_SIDE:
        raise BadData(
            "Features cannot be extracted.", f"Images of shape {images.shape[1:]} are not 2D or 3D, 8 a side."
        )
    if not np.isfinite(images).all():
        raise BadData("Features cannot be extracted.", "An image has a value that is not finite.")
    if not len(images):
        return np.zeros((0, FEATURES * images.shape[1]), np.float32)
    network = _shipped(dims)
    inputs = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).reshape(-1, 1, *images.shape[2:])
    with torch.no_grad():
        parts = [network(shrink(part)) for part in torch.split(inputs, BATCH_SIZE[dims])]
    features: Float32Array = torch.cat(parts).reshape(len(images), -1).numpy()
    return features


def shrink(images: Tensor) -> Tensor:
    """Halve by averaging until the longest side fits the network."""
    dims = images.ndim - 2
    pool = (functional.avg_pool2d, functional.avg_pool3d)[dims - 2]
    while max(images.shape[2:]) > LONGEST_SIDE[dims]:
        images = pool(images, 2, ceil_mode=True)
    return images


@functools.cache
def _shipped(spatial_dims: int) -> FeatureNet:
    content = resources.files("manikin.common.evaluation").joinpath(WEIGHTS).read_bytes()
    return read_weights(content, spatial_dims, sha256=WEIGHTS_SHA256)


def read_weights(content: bytes, spatial_dims: int, *, sha256: str) -> FeatureNet:
    """The network of a weights file, in evaluation mode.

    Raises:
        VerificationFailed: the file's digest is not the one expected.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VerificationFailed(
            "The feature network was refused.",
            "Its weights are not those that this version of Manikin was released with.",
            "Install Manikin again.",
        )
    prefix = f"{spatial_dims}d."
    state = {k.removeprefix(prefix): v.float() for k, v in load_tensors(content).items() if k.startswith(prefix)}
    network = FeatureNet(spatial_dims)
    network.load_state_dict(state, strict=False)
    return network.eval()
