"""How the feature network was made: `python -m manikin.common.evaluation.train_features`, minutes on one core.

Simulated scans of the public population are moved, blurred, grained, stretched in grey values and broken the way that
generators break (lost phase, mixed patients, shuffled parts). One network learns to name the finding, where it lies,
what was broken and by how much each was disturbed; what its last layer holds are the features. The weights are stored
in half precision; the digest printed at the end belongs into `features.WEIGHTS_SHA256`. No patient is involved.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from manikin.common import phantoms
from manikin.common.evaluation.features import FEATURES, GRID, WEIGHTS, FeatureNet
from manikin.common.files import write_atomically

FAILURES = ("none", "phase lost", "two mixed", "parts shuffled")
DISTURBANCES = ("blur", "grain", "gain", "offset", "turn", "zoom")
BLUR_PX, GRAIN, GAIN, OFFSET, TURN_RAD, ZOOM = 1.5, 0.25, 0.35, 0.2, 0.3, 0.2
SEED = 7


@dataclass(frozen=True)
class Recipe:
    """How much to simulate and how long to train, for one number of spatial dimensions.

    Args:
        frames: shape and spacing of what is simulated; no spacing means the whole organ.
        count: scans of each frame and kind.
        batch_size, steps, learning_rate: of the optimiser.
    """

    frames: tuple[tuple[tuple[int, ...], tuple[float, ...] | None], ...]
    count: int
    batch_size: int
    steps: int
    learning_rate: float = 2e-3


RECIPES = {
    2: Recipe((((28, 28), None), ((32, 32), None), ((64, 64), None)), 3000, 64, 1200),
    3: Recipe((((24, 28, 24), None), ((32, 48, 32), (1.0, 1.0, 1.0))), 800, 24, 600),
}


@dataclass(frozen=True)
class Pool:
    """Simulated scans of one shape: images (n, 1, *shape), masks of findings (n, 1, *shape), class of each (n,)."""

    images: Tensor
    masks: Tensor
    classes: Tensor


def class_names(spatial_dims: int) -> list[str]:
    """Every finding of every kind that can be simulated in that many dimensions."""
    kinds = phantoms.KINDS if spatial_dims == 2 else ("brain-mr",)
    return [f"{kind} {name}" for kind in kinds for name in phantoms.population("public", kind).findings]


def simulate_pools(spatial_dims: int, recipe: Recipe, *, seed: int = SEED) -> list[Pool]:
    """One pool a frame, all kinds together."""
    names, pools = class_names(spatial_dims), []
    kinds = phantoms.KINDS if spatial_dims == 2 else ("brain-mr",)
    for number, (shape, spacing) in enumerate(recipe.frames):
        images, masks, classes = [], [], []
        for kind in kinds:
            public = phantoms.population("public", kind)
            drawn = phantoms.simulate(
                public, shape=shape, count=recipe.count, seed=seed * 100 + number, spacing_mm=spacing
            )
            images.append(torch.from_numpy(drawn.images))
            masks.append(torch.from_numpy(drawn.masks)[:, None].float())
            index = np.array([names.index(f"{kind} {name}") for name in drawn.class_names])
            classes.append(torch.from_numpy(index[drawn.labels]))
        pools.append(Pool(torch.cat(images), torch.cat(masks), torch.cat(classes)))
    return pools


def disturb(pool: Pool, chosen: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scans of a pool, moved, degraded and some of them broken.

    Returns:
        images (n, 1, *shape) in [-1, 1]; masks moved alike; which of `FAILURES` (n,); size of each of
        `DISTURBANCES` (n, 6), between -1 and 1 or 0 and 1.
    """
    images, masks = pool.images[chosen], pool.masks[chosen]
    size = torch.rand(len(chosen), len(DISTURBANCES), generator=source) * 2 - 1
    size[:, :2] = size[:, :2].clamp_min(0)  # half of the scans keep their sharpness, half their noise
    grid = _grid(size, images.shape)
    images, masks = (_move(part, grid, mode) for part, mode in ((images, "border"), (masks, "zeros")))
    failure = torch.randint(2 * len(FAILURES), (len(chosen),), generator=source)
    failure[failure >= len(FAILURES)] = 0
    for kind, function in enumerate((_lose_phase, _mix, _shuffle), start=1):
        if bool((failure == kind).any()):
            images[failure == kind] = function(images[failure == kind], source)
    images = _blur(images, BLUR_PX * size[:, 0])
    noise = torch.randn(images.shape, generator=source)
    gain, offset = (_across(v, images) for v in (1 + GAIN * size[:, 2], OFFSET * size[:, 3]))
    images = images * gain + offset + _across(GRAIN * size[:, 1], images) * noise
    return images.clamp(-1, 1), masks, failure, size


def train(
    spatial_dims: int,
    recipe: Recipe,
    *,
    seed: int = SEED,
    progress: Callable[[int], None] | None = None,
) -> FeatureNet:
    """A feature network trained by a recipe; the same recipe and seed give the same weights on the same machine."""
    pools, source = simulate_pools(spatial_dims, recipe, seed=seed), torch.Generator().manual_seed(seed)
    regions = GRID[spatial_dims] ** spatial_dims
    widths = (len(class_names(spatial_dims)), len(FAILURES), len(DISTURBANCES), regions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, heads = FeatureNet(spatial_dims), nn.Linear(FEATURES, sum(widths))
    parameters = [*network.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    for pool, chosen in _batches(pools, recipe, source):
        images, masks, failure, size = disturb(pool, chosen, source)
        found, broken, measured, place = heads(network(images)).split(widths, 1)
        whole = failure == 0
        target = (network.pool(masks, network.grid).flatten(1) * 4).clamp(0, 1)
        loss = (
            functional.cross_entropy(found[whole], pool.classes[chosen][whole])
            + functional.cross_entropy(broken, failure)
            + 4 * functional.mse_loss(measured, size)
            + 2 * functional.binary_cross_entropy_with_logits(place[whole], target[whole])
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if progress:
            progress(1)
    return network.eval()


def pack(networks: dict[int, FeatureNet]) -> bytes:
    """Weights of networks by their number of spatial dimensions, as a safetensors file in half precision."""
    tensors = {
        f"{dims}d.{name}": tensor.half().contiguous()
        for dims, network in networks.items()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    content: bytes = save_tensors(tensors)
    return content


def _batches(pools: list[Pool], recipe: Recipe, source: torch.Generator) -> Iterator[tuple[Pool, Tensor]]:
    """The pools in turn; larger images in smaller batches, so that a step costs much the same."""
    smallest = min(pool.images[0].numel() for pool in pools)
    for step in range(recipe.steps):
        pool = pools[step % len(pools)]
        count = max(8, recipe.batch_size * smallest // pool.images[0].numel())
        yield pool, torch.randint(len(pool.images), (count,), generator=source)


def _grid(size: Tensor, shape: torch.Size) -> Tensor:
    """Sampling grid that turns the first image plane and zooms, by the sizes given."""
    angle, zoom = TURN_RAD * size[:, 4], 1 + ZOOM * size[:, 5]
    dims = len(shape) - 2
    matrix = torch.eye(dims).repeat(len(size), 1, 1) * zoom[:, None, None]
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cosine, -sine, sine, cosine
    return functional.affine_grid(torch.cat([matrix, torch.zeros(len(size), dims, 1)], 2), list(shape), False)


def _move(images: Tensor, grid: Tensor, padding: str) -> Tensor:
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _blur(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur of each image by its own width, in the Fourier domain."""
    axes = tuple(range(2, images.ndim))
    square = torch.zeros(images.shape[2:])
    for axis in axes:
        frequency = torch.fft.fftfreq(images.shape[axis])
        square = square + frequency.square().view([-1 if a == axis else 1 for a in axes])
    transfer = torch.exp(-2 * (torch.pi * _across(sigma_px, images)) ** 2 * square)
    blurred: Tensor = torch.fft.ifftn(torch.fft.fftn(images, dim=axes) * transfer, dim=axes).real
    return blurred


def _lose_phase(images: Tensor, source: torch.Generator) -> Tensor:
    """The same spectrum with the phases of noise: right texture, no anatomy."""
    axes = tuple(range(2, images.ndim))
    mean = images.mean(axes, keepdim=True)
    noise = torch.fft.fftn(torch.randn(images.shape, generator=source), dim=axes)
    spectrum = torch.fft.fftn(images - mean, dim=axes).abs() * noise / noise.abs().clamp_min(1e-6)
    texture: Tensor = torch.fft.ifftn(spectrum, dim=axes).real + mean
    return texture


def _mix(images: Tensor, source: torch.Generator) -> Tensor:
    """The mean of two patients."""
    return (images + images[torch.randperm(len(images), generator=source)]) / 2


def _shuffle(images: Tensor, source: torch.Generator) -> Tensor:
    """Halves along the first two axes of different patients, put together."""
    images = images.clone()
    for axis in (2, 3):
        half = images.shape[axis] // 2
        other = images[torch.randperm(len(images), generator=source)]
        images.narrow(axis, 0, half).copy_(other.narrow(axis, 0, half).clone())
    return images


def _across(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (images.ndim - 1))


def main() -> None:
    """Train both networks and write the weights file of the package, or another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name(WEIGHTS))
    out = parser.parse_args().out
    networks = {}
    for dims, recipe in RECIPES.items():
        print(f"Training in {dims}D: {recipe.steps} steps", flush=True)
        networks[dims] = train(dims, recipe)
    content = pack(networks)
    write_atomically(out, content)
    print(f"{out.name}: {len(content) / 1000:.0f} kB, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
