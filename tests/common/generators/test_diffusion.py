import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from manikin.common import generators
from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.common.generators import GeneratorSpec
from manikin.common.generators.base import Generator, Trainable
from manikin.common.generators.diffusion import Diffusion, noise_levels
from manikin.common.generators.moments import Moments
from manikin.common.generators.principal import Principal
from manikin.common.images import Patient

OPTIONS = {"channels": 8, "sampler_steps": 2, "adapt_steps": 2}
SPEC = GeneratorSpec("diffusion", 1, (9, 8), ("a", "b"), OPTIONS)
SPEC_3D = GeneratorSpec("diffusion", 1, (6, 8, 5), ("a",), OPTIONS)


def images(count: int, spec: GeneratorSpec, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, *spec.shape, generator=torch.Generator().manual_seed(seed)).mul(0.3).clamp(-1, 1)


def adapted(spec: GeneratorSpec) -> Diffusion:
    moments = Moments(GeneratorSpec("moments", 1, spec.shape, spec.labels, {"coefficients": 5, "bands": 2}))
    moments.set_prior(images(30, spec))
    diffusion = Diffusion(spec)
    diffusion.adapt(moments, images(30, spec), generator=torch.Generator().manual_seed(0))
    return diffusion


def test_it_keeps_both_protocols() -> None:
    assert isinstance(Diffusion(SPEC), Generator)
    assert isinstance(Diffusion(SPEC), Trainable)


@pytest.mark.parametrize("spec", [SPEC, SPEC_3D])
def test_no_image_moves_the_loss_of_another(spec: GeneratorSpec) -> None:
    diffusion = Diffusion(spec)
    diffusion.pretrain(images(20, spec), None, steps=3, generator=torch.Generator().manual_seed(0))
    batch = images(3, spec).requires_grad_()
    loss = diffusion.loss(batch, torch.zeros(3, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,)
    (gradient,) = torch.autograd.grad(loss[1], batch)
    assert float(gradient[1].abs().max()) > 0
    assert float(gradient[[0, 2]].abs().max()) == 0


def test_noise_levels_of_repeats_are_spread_out() -> None:
    diffusion, seen = Diffusion(SPEC), []
    original = diffusion.denoise

    def record(noisy: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        seen.append(sigma.log())
        return original(noisy, sigma, conditions)

    diffusion.denoise = record  # type: ignore[method-assign]
    diffusion.loss(
        images(1, SPEC).expand(8, -1, -1, -1), torch.zeros(8, dtype=torch.int64), generator=torch.Generator()
    )
    gaps = seen[0].sort().values.diff()
    assert float(gaps.min()) > 0.1
    assert float(seen[0].max() - seen[0].min()) > 2


def test_training_on_public_images_lowers_the_loss() -> None:
    diffusion, public = Diffusion(SPEC), images(64, SPEC) * 0.1 + 0.5
    labels = torch.full((64,), 2)

    def loss() -> float:
        return float(diffusion.loss(public, labels, generator=torch.Generator().manual_seed(1)).mean().detach())

    before, ticks = loss(), []
    diffusion.pretrain(public, None, steps=40, generator=torch.Generator().manual_seed(0), progress=ticks.append)
    assert loss() < 0.8 * before
    assert ticks == [1] * 40


def test_only_the_planned_groups_are_private() -> None:
    few = Diffusion(GeneratorSpec("diffusion", 1, (8, 8), ("a",), {**OPTIONS, "private_parameters": ["embedding"]}))
    assert [tuple(p.shape) for p in few.private_parameters()] == [(2, 8)]
    every = Diffusion(GeneratorSpec("diffusion", 1, (8, 8), ("a",), {**OPTIONS, "private_parameters": ["all", "film"]}))
    assert len(list(every.private_parameters())) == len(list(every.net.parameters()))
    assert sum(p.numel() for p in Diffusion(SPEC).private_parameters()) < 0.1 * sum(
        p.numel() for p in every.net.parameters()
    )


@pytest.mark.parametrize("spec", [SPEC, SPEC_3D])
def test_the_same_seed_gives_the_same_samples_after_a_round_trip(spec: GeneratorSpec) -> None:
    diffusion = adapted(spec)
    again = generators.load(spec, diffusion.state())
    labels = torch.zeros(3, dtype=torch.int64)
    first = diffusion.sample(labels, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, again.sample(labels, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(first, diffusion.sample(labels, generator=torch.Generator().manual_seed(6)))
    assert first.shape == (3, 1, *spec.shape)
    assert float(first.abs().max()) <= 1
    assert all(tensor.dtype == torch.float32 for tensor in diffusion.state().values())


def test_it_can_adapt_without_public_images_and_sample_without_a_release() -> None:
    diffusion = Diffusion(SPEC)
    blind = diffusion.sample(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(blind).all())
    moments = Moments(GeneratorSpec("moments", 1, SPEC.shape, SPEC.labels, {"coefficients": 5}))
    diffusion.adapt(moments, None, steps=1, generator=torch.Generator().manual_seed(0))
    assert any(name.startswith("moments.") for name in diffusion.state())


def test_a_release_along_principal_directions_guides_it_and_travels_with_it() -> None:
    options = {"directions": 9, "own": 4}
    released = Principal(GeneratorSpec("principal", 1, SPEC.shape, SPEC.labels, options))
    released.set_prior(images(60, SPEC))
    wanted = torch.cat([images(80, SPEC, 1) * 0.5 + 0.3, images(80, SPEC, 2) * 0.5 - 0.3])
    sums = [
        released.statistic(Patient("0", image[None].numpy(), np.array([c])))
        for image, c in zip(wanted, [0] * 80 + [1] * 80, strict=True)
    ]
    released.fit(np.sum(sums, axis=0), noise_std=0.0)
    still = Diffusion(GeneratorSpec("diffusion", 1, SPEC.shape, SPEC.labels, {**OPTIONS, "start_noise": 0.02}))
    still.adapt(released, images(60, SPEC), generator=torch.Generator().manual_seed(0))
    still.match_means(generator=torch.Generator().manual_seed(1))
    again = generators.load(still.spec, still.state())
    labels = torch.tensor([0, 1] * 40)
    drawn = again.sample(labels, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, still.sample(labels, generator=torch.Generator().manual_seed(3)))
    assert float(drawn[labels == 0].mean() - drawn[labels == 1].mean()) > 0.1


def test_little_start_noise_keeps_the_guide() -> None:
    still = Diffusion(GeneratorSpec("diffusion", 1, SPEC.shape, SPEC.labels, {**OPTIONS, "start_noise": 0.02}))
    still.load_state(adapted(SPEC).state())
    assert still.moments is not None
    labels = torch.tensor([0, 1, 0, 1])
    guide = still.moments.sample(labels, generator=torch.Generator().manual_seed(3))
    drawn = still.sample(labels, generator=torch.Generator().manual_seed(3))
    assert float((drawn - guide).abs().mean()) < 0.05


def faithful(counts: list[int]) -> Diffusion:
    """A denoiser that hands back what it starts from, over a release whose last class is rare."""
    spec = GeneratorSpec("diffusion", 1, SPEC.shape, ("a", "b", "rare"), {**OPTIONS, "start_noise": 0.02})
    moments = Moments(GeneratorSpec("moments", 1, spec.shape, spec.labels, {"coefficients": 5, "bands": 2}))
    moments.set_prior(images(30, spec))
    noisy = torch.randn(len(counts), sum(moments._widths), generator=torch.Generator().manual_seed(2)).double()
    noisy[:, 0] += math.sqrt(moments._shares["count"]) * torch.tensor(counts)
    moments.fit(noisy.numpy().ravel(), noise_std=1.0)
    diffusion = Diffusion(spec)
    diffusion.adapt(moments, images(30, spec), generator=torch.Generator().manual_seed(0))
    diffusion.denoise = lambda noisy, sigma, conditions: noisy  # type: ignore[method-assign]
    return diffusion


def test_a_class_that_has_not_drifted_is_not_moved_by_chance() -> None:
    diffusion = faithful([300, 300, 20])
    diffusion.match_means(generator=torch.Generator().manual_seed(0))
    assert float(diffusion.shift.abs().max()) < 0.001  # 0.0026 where the two means are of separate draws


def test_a_drift_is_taken_back() -> None:
    diffusion = faithful([300, 300, 20])
    original = diffusion.denoise
    diffusion.denoise = lambda *given: original(*given) - 0.1  # type: ignore[method-assign]
    labels = torch.arange(3).repeat(200)

    def drift() -> Tensor:
        assert diffusion.moments is not None
        guide = diffusion.moments.sample(labels, generator=torch.Generator().manual_seed(9))
        drawn = diffusion.sample(labels, generator=torch.Generator().manual_seed(9))
        return torch.stack([(drawn - guide)[labels == c].mean() for c in range(3)])

    assert float(drift().abs().min()) > 0.05
    diffusion.match_means(generator=torch.Generator().manual_seed(0))
    assert float(drift().abs().max()) < 0.02


@pytest.mark.parametrize(
    "options", [{"widht": 8}, {"private_parameters": ["attention"]}, {"private_parameters": []}, {"channels": -1}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(Misconfigured):
        generators.create(GeneratorSpec("diffusion", 1, (8, 8), ("a",), options))


@pytest.mark.parametrize("damage", ["missing", "nan", "moments"])
def test_a_state_that_does_not_fit_is_refused(damage: str) -> None:
    state = adapted(SPEC).state()
    if damage == "missing":
        del state["net.output.weight"]
    elif damage == "nan":
        state["net.output.weight"][0] = math.nan
    else:
        state["moments.mean"] = torch.zeros(1, 4)
    with pytest.raises(ProtocolViolation):
        Diffusion(SPEC).load_state(state)


def test_levels_fall_from_the_start_to_almost_nothing() -> None:
    levels = noise_levels(6, 1.0)
    assert levels[0] == pytest.approx(1.0)
    assert levels[-1] == pytest.approx(0.02)
    assert all(a > b for a, b in itertools.pairwise(levels))
