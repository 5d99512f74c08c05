"""The `diffusion` family: a denoiser that learns anatomy from public images, classes from a release, and a little more.

Three sources, in this order: `pretrain` on phantoms (no privacy cost), `adapt` to the moments of a release (only
post-processing), then gradients of patients through `loss`, which the privacy engine clips and noises and which may
move `private_parameters` only. A sample starts as a draw of the released moments under noise that hides all but its
large shapes, and the denoiser draws the rest anew. So the network need not learn what the release knows, few noise
levels matter, and few steps suffice. At the end `match_means` moves each class's mean back to the released one, from
which the denoiser drifts. The state carries the moments and that shift too.

>>> spec = GeneratorSpec("diffusion", 1, (8, 8), ("a", "b"), {"channels": 8, "sampler_steps": 2})
>>> Diffusion(spec).sample(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0)).shape
torch.Size([2, 1, 8, 8])

Karras et al., "Elucidating the design space of diffusion-based generative models", 2022 (EDM); start from a guide:
Meng et al., SDEdit, 2022; warm-up by a release: FETA-Pro (Gong et al., 2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from manikin.common.errors import Misconfigured
from manikin.common.generators.base import GeneratorSpec, check_state, check_state_size, read_options
from manikin.common.generators.moments import Moments
from manikin.common.generators.principal import Principal
from manikin.common.generators.unet import UNet, UNetShape, count_parameters

OPTIONS = {
    "channels": 16,
    "levels": 2,
    "embedding": 8,
    "patch": 2,
    "private_parameters": ["film", "embedding", "output"],
    "label_dropout": 0.1,
    "guidance": 1.0,
    "sampler_steps": 6,
    "start_noise": 1.5,
    "adapt_steps": 500,
}
MOST = {
    "channels": 1024,
    "levels": 8,
    "embedding": 1024,
    "patch": 8,
    "label_dropout": 1.0,
    "guidance": 100.0,
    "sampler_steps": 1000,
    "start_noise": 100.0,
    "adapt_steps": 1_000_000,
}
SIGMA_DATA, SIGMA_MIN, BLIND_SIGMA, RHO = 0.5, 0.02, 20.0, 5.0
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2
GOLDEN = 0.6180339887498949
SAMPLE_BATCH, SAMPLE_VOXELS = 128, 1 << 18  # images at once, fewer of large ones: measured where forwards are fastest
TRAIN_BATCH, TRAIN_VOXELS = 64, 1 << 17
LEARNING_RATE = 2e-3
MATCH_IMAGES, MATCH_VOXELS = 300, 1 << 22  # images a class that `match_means` draws, fewer of large ones


class Diffusion:
    """Class-conditional EDM denoiser with released moments."""

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec
        self.options = read_options(spec, OPTIONS, MOST)
        classes = len(spec.labels)
        width, levels = int(self.options["channels"]), int(self.options["levels"])
        size, patch = int(self.options["embedding"]), int(self.options["patch"])
        shape = UNetShape(spec.spatial_dims, spec.channels, classes, width, levels, size, patch)
        check_state_size(count_parameters(shape))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = UNet(shape)
        self.moments: Moments | Principal | None = None
        self.shift = torch.zeros(classes, spec.channels, *spec.shape)
        self._private_names()

    def _private_names(self) -> list[str]:
        names = list(self.options["private_parameters"])
        known = self.net.groups()
        if not names or not set(names) <= set(known):
            raise Misconfigured(
                "private_parameters names no group, or one that this network lacks.",
                f"The groups are {', '.join(known)}.",
                "Correct [generator] private_parameters.",
            )
        return names

    def private_parameters(self) -> Iterable[torch.nn.Parameter]:
        """The parameters of the groups that the plan names, each once."""
        groups = self.net.groups()
        chosen = {id(p): p for name in self._private_names() for p in groups[name]}
        return list(chosen.values())

    def denoise(self, noisy: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        """Preconditioned denoiser D(x; sigma, class); sigma (n,)."""
        s = sigma.reshape(-1, *[1] * (noisy.ndim - 1))
        total = s.square() + SIGMA_DATA**2
        out = self.net(noisy / total.sqrt(), sigma.log() / 4, conditions)
        denoised: Tensor = noisy * SIGMA_DATA**2 / total + out * s * SIGMA_DATA / total.sqrt()
        return denoised

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Weighted denoising error (n,), one scalar an image; noise levels are spread evenly over the rows.

        Repeat an image K times to average K draws: neighbouring rows get well separated noise levels. Label dropout
        and noise are drawn for each row from `generator`, never from the images.
        """
        return self.error(*self.draw(images, conditions, generator=generator))

    def draw(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images, noisy images, noise levels (n,) and labels (n,), some of them dropped."""
        n = len(images)
        quantile = (torch.rand((), generator=generator) + torch.arange(n) * GOLDEN) % 1
        normal = math.sqrt(2) * torch.erfinv((2 * quantile - 1).clamp(-0.999, 0.999))
        sigma = (LOG_SIGMA_MEAN + LOG_SIGMA_STD * normal).exp()
        dropped = torch.rand(n, generator=generator) < float(self.options["label_dropout"])
        labels = torch.where(dropped, len(self.spec.labels), conditions)
        noise = torch.randn(images.shape, generator=generator)
        return images, images + sigma.reshape(-1, *[1] * (images.ndim - 1)) * noise, sigma, labels

    def error(self, *drawn: Tensor) -> Tensor:
        """Weighted denoising error (n,) of what `draw` gave."""
        images, noisy, sigma, labels = drawn
        denoised = self.denoise(noisy, sigma, labels)
        weight = (sigma.square() + SIGMA_DATA**2) / (sigma * SIGMA_DATA).square()
        return weight * (denoised - images).square().flatten(1).mean(1)

    def pretrain(
        self,
        images: Tensor,
        conditions: Tensor | None,
        *,
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Learn from public images alone (Adam, learning rate falling to 0); no privacy cost.

        Args:
            images: float32 (n, c, *spatial) in [-1, 1].
            conditions: int64 (n,), or None for images of no class (the null class).
            steps: gradient steps of 64 images, fewer of large ones.
            generator: source of batches, noise levels and noise.
            progress: called with 1 after each step.
        """
        null = torch.full((len(images),), len(self.spec.labels))
        labels = null if conditions is None else conditions

        def batch() -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(images), (self._batch_size,), generator=generator)
            return images[chosen], labels[chosen]

        self._train(batch, steps, generator, progress)

    def adapt(
        self,
        moments: Moments | Principal,
        prior_images: Tensor | None,
        *,
        steps: int | None = None,
        generator: torch.Generator,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Learn classes from a fitted release: train on public images moved onto its moments, and keep the moments.

        Args:
            moments: fitted.
            prior_images: those given to `moments.set_prior`; None: the samples of `moments` itself, as always for the
                family `principal`, which chooses its images.
            steps: gradient steps; None: the option `adapt_steps`.
            generator, progress: as in `pretrain`.
        """
        classes = len(self.spec.labels)
        self.moments = type(moments).from_state(self.spec, moments.state())

        def batch() -> tuple[Tensor, Tensor]:
            labels = torch.randint(classes, (self._batch_size,), generator=generator)
            if prior_images is None or isinstance(moments, Principal):
                return moments.sample(labels, generator=generator), labels
            chosen = prior_images[torch.randint(len(prior_images), (self._batch_size,), generator=generator)]
            return moments.transport(chosen, labels, generator=generator), labels

        self._train(batch, self._adapt_steps(steps), generator, progress)

    @torch.no_grad()
    def match_means(self, *, generator: torch.Generator) -> None:
        """Move each class's mean, of what the release describes, to the released one; post-processing, so at no cost.

        Each of a few hundred images a class is compared with the very draw of the moments that it started from, and all
        classes start from the same draws. Means of separate draws would differ by chance, in each class otherwise: that
        is a sign of the class that no patient has. Without a release there is nothing to match.
        """
        self.shift.zero_()
        if self.moments is None:
            return
        seed = int(torch.randint(1 << 62, (), generator=generator))
        for label in range(len(self.spec.labels)):
            n = max(32, min(MATCH_IMAGES, MATCH_VOXELS // math.prod(self.spec.shape)))
            conditions, source = torch.full((n,), label), torch.Generator().manual_seed(seed)
            guide = self._guide(conditions, generator=source)
            drawn = self._refine(guide, conditions, generator=source)
            self.shift[label] = self.moments.described((guide - drawn).mean(0, keepdim=True))[0]

    @property
    def _batch_size(self) -> int:
        """Images a step: fewer where they are large, at least 2."""
        return max(2, min(TRAIN_BATCH, TRAIN_VOXELS // math.prod(self.spec.shape)))

    def _adapt_steps(self, steps: int | None) -> int:
        return int(self.options["adapt_steps"]) if steps is None else steps

    def _train(
        self,
        batch: Callable[[], tuple[Tensor, Tensor]],
        steps: int,
        generator: torch.Generator,
        progress: Callable[[int], None] | None,
    ) -> None:
        optimiser = torch.optim.Adam(self.net.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
        )
        for _ in range(steps):
            images, labels = batch()
            optimiser.zero_grad(set_to_none=True)
            self.loss(images, labels, generator=generator).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if progress is not None:
                progress(1)
        optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def sample(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images float32 (n, c, *spatial) in [-1, 1] for class indices int64 (n,), by Heun's method.

        All randomness is drawn first, so batches only bound memory. Before `adapt` there is nothing to start
        from but noise.
        """
        return self._refine(self._guide(conditions, generator=generator), conditions, generator=generator)

    def _guide(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """What samples start from: draws of the released moments, or zeros without a release."""
        if self.moments is None:
            return torch.zeros(len(conditions), self.spec.channels, *self.spec.shape)
        return self.moments.sample(conditions, generator=generator)

    def _refine(self, guide: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Samples from what they start from: noised, denoised, moved by the class's shift, clipped."""
        highest = BLIND_SIGMA if self.moments is None else float(self.options["start_noise"])
        levels = noise_levels(int(self.options["sampler_steps"]), highest)
        start = guide + levels[0] * torch.randn(guide.shape, generator=generator)
        parts = zip(torch.split(start, self.sample_batch), torch.split(conditions, self.sample_batch), strict=True)
        images = torch.cat([self._solve(noisy, labels, levels) for noisy, labels in parts])
        return (images + self.shift[conditions]).clamp(-1, 1)

    @property
    def sample_batch(self) -> int:
        """Images that `sample` works on at once."""
        return max(1, min(SAMPLE_BATCH, SAMPLE_VOXELS // math.prod(self.spec.shape)))

    def _solve(self, x: Tensor, conditions: Tensor, levels: list[float]) -> Tensor:
        for sigma, following in zip(levels, [*levels[1:], 0.0], strict=True):
            slope = (x - self._guided(x, sigma, conditions)) / sigma
            ahead = x + (following - sigma) * slope
            if following > 0:
                second = (ahead - self._guided(ahead, following, conditions)) / following
                ahead = x + (following - sigma) * 0.5 * (slope + second)
            x = ahead
        return x

    def _guided(self, x: Tensor, sigma: float, conditions: Tensor) -> Tensor:
        level, guidance = torch.full((len(x),), sigma), float(self.options["guidance"])
        with_class = self.denoise(x, level, conditions)
        if guidance == 1.0:
            return with_class
        without = self.denoise(x, level, torch.full_like(conditions, len(self.spec.labels)))
        return without + guidance * (with_class - without)

    def state(self) -> dict[str, Tensor]:
        """Weights as `net.*`, `shift` and, after `adapt`, the moments as `moments.*`, float32."""
        weights = {f"net.{name}": tensor.detach().clone() for name, tensor in self.net.state_dict().items()}
        moments = self.moments.state() if self.moments is not None else {}
        return weights | {"shift": self.shift.clone()} | {f"moments.{name}": t for name, t in moments.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state, with or without moments.

        Raises:
            ProtocolViolation: names, shapes or dtypes do not fit the spec, or a value is not finite.
        """
        moments = {name[8:]: tensor for name, tensor in state.items() if name.startswith("moments.")}
        weights = {name: tensor for name, tensor in state.items() if not name.startswith("moments.")}
        own = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        check_state(weights, own | {"shift": self.shift})
        family = Principal if "vectors" in moments else Moments
        self.moments = family.from_state(self.spec, moments) if moments else None
        self.shift = weights.pop("shift").clone()
        self.net.load_state_dict({name[4:]: tensor for name, tensor in weights.items()})


def noise_levels(steps: int, highest: float) -> list[float]:
    """Karras' schedule from `highest` down to 0.02, `steps` levels.

    >>> [round(s, 3) for s in noise_levels(3, 20.0)]
    [20.0, 1.916, 0.02]
    """
    low, high = SIGMA_MIN ** (1 / RHO), highest ** (1 / RHO)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** RHO for i in range(max(steps, 1))]
