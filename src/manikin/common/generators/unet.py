"""A small U-shaped denoiser for 2D and 3D images, written for one CPU thread.

Images are folded into patches first (2 x 2 pixels become channels), so that most arithmetic happens at a quarter
(in 3D an eighth) of the positions with more channels, which convolutions on a CPU like best. Every normalisation is
GroupNorm, within one image: no operation mixes images, as per-patient gradients need.

>>> net = UNet(UNetShape(spatial_dims=2, channels=1, classes=2, width=8))
>>> net(torch.zeros(3, 1, 9, 9), torch.zeros(3), torch.zeros(3, dtype=torch.int64)).shape
torch.Size([3, 1, 9, 9])

Ronneberger, Fischer and Brox 2015; FiLM: Perez et al. 2018; patches: Luhman and Luhman 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True)
class UNetShape:
    """Sizes that fix every weight's shape; the class after the last one is the null class."""

    spatial_dims: int
    channels: int
    classes: int
    width: int
    levels: int = 2
    embedding: int = 16
    patch: int = 2


def convolution(dims: int, inputs: int, outputs: int) -> nn.Module:
    return CONVOLUTIONS[dims](inputs, outputs, 3, padding=1)


class Block(nn.Module):
    """Residual block: two convolutions, the second one's input scaled and shifted by the embedding (FiLM)."""

    def __init__(self, dims: int, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(math.gcd(4, inputs), inputs)
        self.first = convolution(dims, inputs, outputs)
        self.film = nn.Linear(embedding, 2 * outputs)
        self.second_norm = nn.GroupNorm(math.gcd(4, outputs), outputs)
        self.second = convolution(dims, outputs, outputs)
        self.skip = CONVOLUTIONS[dims](inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.get_parameter("weight"))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(functional.silu(self.first_norm(x)))
        scale, shift = self.film(embedding).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        hidden = self.second(functional.silu(self.second_norm(hidden) * (1 + scale) + shift))
        result: Tensor = hidden + self.skip(x)
        return result


class UNet(nn.Module):
    """The network F of the preconditioned denoiser."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        dims, width, size = shape.spatial_dims, shape.width, shape.embedding
        widths = [width * min(2, level + 1) for level in range(shape.levels)]
        pixels = shape.channels * shape.patch**dims
        self.input = convolution(dims, pixels + dims, width)
        self.noise = nn.Linear(2 * size, size)
        self.embedding = nn.Embedding(shape.classes + 1, size)
        self.mix = nn.Linear(size, size)
        self.down = nn.ModuleList(Block(dims, widths[max(i - 1, 0)], widths[i], size) for i in range(shape.levels))
        self.middle = Block(dims, widths[-1], widths[-1], size)
        self.up = nn.ModuleList(
            Block(dims, widths[min(i + 1, shape.levels - 1)] + widths[i], widths[i], size)
            for i in reversed(range(shape.levels))
        )
        self.output_norm = nn.GroupNorm(math.gcd(4, width), width)
        self.output = convolution(dims, width, pixels)
        self.layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(dims, torch.contiguous_format)
        self.register_buffer("frequencies", torch.exp(torch.linspace(-1.5, 2.0, size)), persistent=False)

    def forward(self, images: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        """Images (n, c, *spatial), noise-level inputs (n,), classes int64 (n,) -> (n, c, *spatial)."""
        embedding = self._embed(noise, conditions)
        x = self.input(self._with_positions(fold(images, self.shape.patch)).to(memory_format=self.layout))
        skips = []
        for level, block in enumerate(self.down):
            x = block(shrink(x) if level else x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for block in self.up:
            skip = skips.pop()
            x = x if x.shape[2:] == skip.shape[2:] else functional.interpolate(x, skip.shape[2:], mode="nearest")
            x = block(torch.cat([x, skip], 1), embedding)
        x = self.output(functional.silu(self.output_norm(x)))
        return unfold(x, self.shape.patch, images.shape)

    def _embed(self, noise: Tensor, conditions: Tensor) -> Tensor:
        angles = noise[:, None] * self.get_buffer("frequencies")
        waves = self.noise(torch.cat([angles.cos(), angles.sin()], 1))
        mixed: Tensor = self.mix(functional.silu(waves + self.embedding(conditions)))
        return functional.silu(mixed)

    def _with_positions(self, x: Tensor) -> Tensor:
        """One more channel an axis: where along it the patch lies, -1 to 1."""
        axes = [torch.linspace(-1, 1, n, device=x.device) for n in x.shape[2:]]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return torch.cat([x, positions.expand(len(x), *positions.shape)], 1)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by the names that a plan may make private."""
        blocks = [*self.down, self.middle, *self.up]
        norms = [m for m in self.modules() if isinstance(m, nn.GroupNorm)]
        return {
            "film": [p for block in blocks for p in block.get_submodule("film").parameters()],
            "embedding": [self.embedding.weight],
            "output": list(self.output.parameters()),
            "input": list(self.input.parameters()),
            "norm": [p for norm in norms for p in norm.parameters()],
            "all": list(self.parameters()),
        }


def count_parameters(shape: UNetShape) -> int:
    """Numbers in all parameters of a network, without making them.

    >>> count_parameters(UNetShape(spatial_dims=3, channels=1, classes=2, width=1024, levels=8))
    4369207128
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(shape).parameters())


def shrink(x: Tensor) -> Tensor:
    """Half the resolution by averaging; odd sizes round up."""
    return POOLS[x.ndim - 2](x, 2, ceil_mode=True)


def fold(images: Tensor, patch: int) -> Tensor:
    """Patches of `patch` samples an axis into channels; sizes are padded to a multiple by their edge values."""
    n, c, *spatial = images.shape
    padding = [p for size in reversed(spatial) for p in (0, -size % patch)]
    images = functional.pad(images, padding, mode="replicate") if any(padding) else images
    counts = [math.ceil(size / patch) for size in spatial]
    split = images.reshape(n, c, *[part for count in counts for part in (count, patch)])
    dims = len(spatial)
    order = [0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2)]
    return split.permute(order).reshape(n, c * patch**dims, *counts)


def unfold(x: Tensor, patch: int, target: torch.Size) -> Tensor:
    """The inverse of `fold`, cropped to the target's shape."""
    n, c, *spatial = target
    counts, dims = x.shape[2:], len(spatial)
    split = x.reshape(n, c, *[patch] * dims, *counts)
    order = [0, 1, *[axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]]
    images = split.permute(order).reshape(n, c, *[count * patch for count in counts])
    return images[(slice(None), slice(None), *(slice(size) for size in spatial))]
