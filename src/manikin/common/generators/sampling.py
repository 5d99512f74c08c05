"""Drawing many images from a generator in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manikin.common.generators.base import Generator

CHUNK = 1000  # images a call: fixes the bytes for a seed; families bound memory within a call


def draw(
    generator: Generator, conditions: Tensor, *, seed: int, progress: Callable[[int], None] | None = None
) -> Tensor:
    """Images float32 (n, c, *spatial) for class indices int64 (n,); the same seed gives the same bytes."""
    source = torch.Generator().manual_seed(seed)
    chunks = []
    for part in torch.split(conditions, CHUNK):
        chunks.append(generator.sample(part, generator=source))
        if progress:
            progress(len(part))
    return torch.cat(chunks)


def balanced(count: int, classes: int) -> Tensor:
    """Class indices int64 (count,) with every class equally often, as far as `count` allows."""
    return torch.arange(count) % classes
