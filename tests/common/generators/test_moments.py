import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common import generators
from manikin.common.errors import BadData, Misconfigured, ProtocolViolation
from manikin.common.generators import GeneratorSpec
from manikin.common.generators.moments import Moments
from manikin.common.images import Patient

SPEC = GeneratorSpec("moments", 1, (8, 8), ("a", "b"), {"coefficients": 9, "bands": 3, "middle": 6})
SPEC_3D = GeneratorSpec("moments", 2, (5, 6, 4), ("a",), {"coefficients": 12, "bands": 2})


def patient(images: np.ndarray, labels: list[int]) -> Patient:
    return Patient("00", images.astype(np.float32), np.array(labels, dtype=np.int64))


def smooth(count: int, seed: int, *, offset: float = 0.0, shape: tuple[int, ...] = (8, 8)) -> torch.Tensor:
    """Random smooth images with fine grain."""
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, *[2] * len(shape), generator=source) * 0.2
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    large = torch.nn.functional.interpolate(coarse, shape, mode=mode, align_corners=True)
    return (large + offset + 0.05 * torch.randn(count, 1, *shape, generator=source)).clamp(-1, 1)


def total(moments: Moments, images: torch.Tensor, labels: list[int]) -> np.ndarray:
    each = (moments.statistic(patient(i[None].numpy(), [c])) for i, c in zip(images, labels, strict=True))
    return np.sum(list(each), axis=0)


def release(moments: Moments, images: torch.Tensor, labels: list[int], noise_std: float = 0.0) -> None:
    exact = total(moments, images, labels)
    moments.fit(exact + np.random.default_rng(0).normal(size=len(exact)) * noise_std, noise_std=noise_std)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.floats(1e-3, 1e4),
    st.floats(-1e3, 1e3),
    st.integers(0, 10_000),
    st.sampled_from([SPEC, SPEC_3D]),
)
def test_no_patient_contributes_more_than_the_bound(
    count: int, spread: float, offset: float, seed: int, spec: GeneratorSpec
) -> None:
    rng = np.random.default_rng(seed)
    moments = Moments(spec)
    images = rng.normal(size=(count, spec.channels, *spec.shape)) * spread + offset
    labels = rng.integers(0, len(spec.labels), count).tolist()
    assert np.linalg.norm(moments.statistic(patient(images, labels))) <= moments.norm_bound * (1 + 1e-6)


def test_the_bound_is_reached_so_that_no_noise_is_wasted() -> None:
    image = np.full((1, 1, 8, 8), 1e3)
    image[0, 0, ::2] *= -1
    assert np.linalg.norm(Moments(SPEC).statistic(patient(image, [1]))) > 0.97


def test_many_images_of_a_patient_count_as_their_mean() -> None:
    moments, images = Moments(SPEC), smooth(3, 0).numpy()
    each = [moments.statistic(patient(images[i : i + 1], [i % 2])) for i in range(3)]
    assert np.allclose(moments.statistic(patient(images, [0, 1, 0])), np.mean(each, 0))


def test_fit_recovers_class_moments_when_there_is_no_noise() -> None:
    moments = Moments(SPEC)
    moments.set_prior(smooth(500, 0))
    images = torch.cat([smooth(400, 1, offset=0.1) * 0.7, smooth(200, 2, offset=-0.1)])
    labels = [0] * 400 + [1] * 200
    release(moments, images, labels)
    assert moments.shares().tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    low = moments.features.basis.forward(images).double()
    mean, covariance = moments.low_moments()
    for label, part in enumerate((low[:400], low[400:])):
        assert float((mean[label] - part.mean(0)).norm()) < 0.05 * float(part.norm(dim=1).mean())
        truth = torch.cov(part.T)
        assert float((covariance[label] - truth).norm()) < 0.15 * float(truth.norm())


def test_samples_have_the_released_mean_and_variance() -> None:
    moments = Moments(SPEC)
    moments.set_prior(smooth(500, 0))
    images = smooth(600, 1, offset=0.15) * 0.6
    release(moments, images, [0] * 600)
    drawn = moments.sample(torch.zeros(2000, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(float(images.mean()), abs=0.01)
    assert float(drawn.std(0).mean()) == pytest.approx(float(images.std(0).mean()), rel=0.15)


def test_less_noise_gives_better_moments() -> None:
    images = torch.cat([smooth(1500, 1, offset=0.2), smooth(500, 2, offset=-0.2) * 0.5])
    moments = Moments(SPEC)
    moments.set_prior(smooth(500, 0))
    exact = total(moments, images, [0] * 1500 + [1] * 500)
    moments.fit(exact, noise_std=0.0)
    truth = moments.low_moments()
    mean_errors, covariance_errors = [], []
    for noise_std in (30.0, 10.0, 3.0, 1.0, 0.1):
        fits = []
        for seed in range(8):
            noise = np.random.default_rng(seed).normal(size=len(exact)) * noise_std
            moments.fit(exact + noise, noise_std=noise_std)
            fits.append(moments.low_moments())
        mean_errors.append(np.mean([float((mean - truth[0]).norm()) for mean, _ in fits]))
        covariance_errors.append(np.mean([float((covariance - truth[1]).norm()) for _, covariance in fits]))
    for errors in (mean_errors, covariance_errors):
        assert all(b < 1.05 * a for a, b in itertools.pairwise(errors))
        assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("noise_std", [0.5, 5.0, 500.0])
def test_a_class_with_hardly_a_patient_gets_finite_moments(noise_std: float) -> None:
    moments = Moments(SPEC)
    moments.set_prior(smooth(200, 0))
    release(moments, smooth(20, 1), [0] * 20, noise_std)
    drawn = moments.sample(torch.tensor([0, 1] * 10), generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(drawn).all())
    assert float(drawn.abs().max()) <= 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in moments.state().values())


@pytest.mark.parametrize("prior", ["texture", "phantoms"])
@pytest.mark.parametrize("spec", [SPEC, SPEC_3D])
def test_the_same_seed_gives_the_same_samples_after_a_round_trip(spec: GeneratorSpec, prior: str) -> None:
    spec = GeneratorSpec("moments", spec.channels, spec.shape, spec.labels, {**spec.options, "prior": prior})
    moments = Moments(spec)
    moments.set_prior(smooth(50, 0, shape=spec.shape).expand(-1, spec.channels, *[-1] * len(spec.shape)))
    again = generators.load(spec, moments.state())
    labels = torch.zeros(5, dtype=torch.int64)
    first = moments.sample(labels, generator=torch.Generator().manual_seed(7))
    second = again.sample(labels, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, second)
    assert first.shape == (5, spec.channels, *spec.shape)
    assert first.dtype == torch.float32


def test_sizes_are_read_from_a_state_without_its_options() -> None:
    moments = Moments(SPEC)
    moments.set_prior(smooth(50, 0))
    again = Moments.from_state(GeneratorSpec("diffusion", 1, (8, 8), ("a", "b"), {}), moments.state())
    assert again.count == 9
    assert again.features.band_count == 3


def test_every_hospital_computes_the_same_statistic_from_the_state() -> None:
    moments, other = Moments(SPEC), Moments(SPEC)
    moments.set_prior(smooth(50, 0))
    other.load_state(moments.state())
    one = patient(smooth(2, 3).numpy(), [0, 1])
    assert np.array_equal(moments.statistic(one), other.statistic(one))


@pytest.mark.parametrize("options", [{"colour": 1}, {"coefficients": 0}, {"coefficients": "many"}, {"prior": "none"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(Misconfigured):
        generators.create(GeneratorSpec("moments", 1, (8, 8), ("a",), options))


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "extra", "dtype"])
def test_a_state_that_does_not_fit_is_refused(damage: str) -> None:
    state = Moments(SPEC).state()
    if damage == "missing":
        del state["mean"]
    elif damage == "shape":
        state["mean"] = torch.zeros(3, 9)
    elif damage == "nan":
        state["mean"][0, 0] = math.nan
    elif damage == "extra":
        state["more"] = torch.zeros(1)
    else:
        state["mean"] = state["mean"].double()
    with pytest.raises(ProtocolViolation):
        Moments(SPEC).load_state(state)


def test_bad_patients_and_bad_sums_are_refused_without_their_values() -> None:
    moments = Moments(SPEC)
    with pytest.raises(BadData):
        moments.statistic(patient(np.full((1, 1, 8, 8), math.nan), [0]))
    with pytest.raises(BadData):
        moments.statistic(patient(np.zeros((1, 1, 8, 8)), [2]))
    with pytest.raises(BadData):
        moments.fit(np.zeros(3), noise_std=1.0)
