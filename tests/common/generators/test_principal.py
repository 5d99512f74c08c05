import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common import generators
from manikin.common.errors import BadData, Misconfigured, ProtocolViolation
from manikin.common.generators import GeneratorSpec, Releasable
from manikin.common.generators.principal import LEAST_EFFECTIVE, Principal, unvech, vech
from manikin.common.images import Patient

SPEC = GeneratorSpec("principal", 1, (8, 8), ("a", "b"), {"directions": 10, "own": 4})
SPEC_3D = GeneratorSpec("principal", 2, (5, 6, 4), ("a",), {"directions": 8, "own": 3})


def patient(images: np.ndarray, labels: list[int]) -> Patient:
    return Patient("00", images.astype(np.float32), np.array(labels, dtype=np.int64))


def smooth(count: int, seed: int, *, offset: float = 0.0, shape: tuple[int, ...] = (8, 8)) -> torch.Tensor:
    """Random smooth images with fine grain."""
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, *[2] * len(shape), generator=source) * 0.2
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    large = torch.nn.functional.interpolate(coarse, shape, mode=mode, align_corners=True)
    return (large + offset + 0.05 * torch.randn(count, 1, *shape, generator=source)).clamp(-1, 1)


def with_prior(spec: GeneratorSpec = SPEC) -> Principal:
    family = Principal(spec)
    family.set_prior(smooth(400, 0, shape=spec.shape).expand(-1, spec.channels, *[-1] * len(spec.shape)))
    return family


def total(family: Principal, images: torch.Tensor, labels: list[int]) -> np.ndarray:
    each = (family.statistic(patient(i[None].numpy(), [c])) for i, c in zip(images, labels, strict=True))
    return np.sum(list(each), axis=0)


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
    family = Principal(spec)
    images = rng.normal(size=(count, spec.channels, *spec.shape)) * spread + offset
    labels = rng.integers(0, len(spec.labels), count).tolist()
    assert np.linalg.norm(family.statistic(patient(images, labels))) <= family.norm_bound * (1 + 1e-6)


def test_the_bound_is_reached_so_that_no_noise_is_wasted() -> None:
    lowest = np.full((1, 1, 8, 8), 1e3)
    assert np.linalg.norm(Principal(SPEC).statistic(patient(lowest, [1]))) > 0.99


def test_the_bound_holds_after_public_images_have_set_the_scales() -> None:
    far = np.random.default_rng(0).normal(size=(1, 1, 8, 8)) * 1e3
    assert np.linalg.norm(with_prior().statistic(patient(far, [0]))) <= 1 + 1e-6


def test_many_images_of_a_patient_count_as_their_mean() -> None:
    family, images = with_prior(), smooth(3, 5).numpy()
    each = [family.statistic(patient(images[i : i + 1], [i % 2])) for i in range(3)]
    assert np.allclose(family.statistic(patient(images, [0, 1, 0])), np.mean(each, 0), atol=1e-5)


def test_fit_recovers_what_was_summed_when_there_is_no_noise() -> None:
    family = with_prior()
    images = torch.cat([smooth(400, 1, offset=0.1) * 0.7, smooth(200, 2, offset=-0.1)])
    family.fit(total(family, images, [0] * 400 + [1] * 200), noise_std=0.0)
    assert family.shares().tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    state, z = family.state(), family.directions.measure(images)
    for label, part in enumerate((z[:400], z[400:])):
        assert float((state["mean"][label] - part.mean(0)).norm()) < 1e-4
        own = torch.cov(part[:, :4].T, correction=0)
        assert float((state["covariance"][label, :4, :4] - own).norm()) < 0.05 * float(own.norm())
    shared = torch.cov(torch.cat([z[:400] - z[:400].mean(0), z[400:] - z[400:].mean(0)]).T)
    mean = (2 * state["covariance"][0] + state["covariance"][1])[4:, 4:] / 3
    assert float((mean - shared[4:, 4:]).norm()) < 0.3 * float(shared[4:, 4:].norm())


def test_samples_have_the_released_mean_and_variance() -> None:
    family, images = with_prior(), smooth(600, 1, offset=0.15) * 0.6
    family.fit(total(family, images, [0] * 600), noise_std=0.0)
    drawn = family.sample(torch.zeros(2000, dtype=torch.int64), generator=torch.Generator().manual_seed(0))
    z, wanted = family.directions.places(drawn), family.directions.places(images)
    assert float((z.mean(0) - wanted.mean(0)).norm()) < 0.05
    assert z.var(0).sum() == pytest.approx(float(wanted.var(0).sum()), rel=0.1)


def test_less_noise_gives_better_moments() -> None:
    images, labels = torch.cat([smooth(1500, 1, offset=0.2), smooth(500, 2, offset=-0.2) * 0.5]), [0] * 1500 + [1] * 500
    family = with_prior()
    exact = total(family, images, labels)
    family.fit(exact, noise_std=0.0)
    truth = family.state()
    errors: dict[str, list[float]] = {"mean": [], "covariance": []}
    for noise_std in (100.0, 10.0, 1.0, 0.1):
        fits = []
        for seed in range(6):
            noise = np.random.default_rng(seed).normal(size=len(exact)) * noise_std
            family.fit(exact + noise, noise_std=noise_std)
            fits.append(family.state())
        for name, found in errors.items():
            found.append(float(np.mean([float((fit[name] - truth[name]).norm()) for fit in fits])))
    for found in errors.values():
        assert all(b < 1.05 * a for a, b in itertools.pairwise(found))
        assert found[-1] < 0.2 * found[0]


def test_public_images_that_resemble_a_class_are_preferred_and_enough_are_left() -> None:
    family = Principal(SPEC)
    public = torch.cat([smooth(300, 0, offset=0.3), smooth(300, 1, offset=-0.3)])
    family.set_prior(public)
    images = torch.cat([smooth(300, 2, offset=0.3), smooth(300, 3, offset=-0.3)])
    family.fit(total(family, images, [0] * 300 + [1] * 300), noise_std=0.0)
    weights = family._moves.weights
    assert float(weights[0, :300].sum()) > 0.6
    assert float(weights[1, 300:].sum()) > 0.6
    assert float((1 / weights.square().sum(1)).min()) >= LEAST_EFFECTIVE * 600 * 0.99


@pytest.mark.parametrize("noise_std", [0.5, 5.0, 500.0])
def test_a_class_with_hardly_a_patient_gets_finite_moments(noise_std: float) -> None:
    family = with_prior()
    exact = total(family, smooth(20, 1), [0] * 20)
    family.fit(exact + np.random.default_rng(0).normal(size=len(exact)) * noise_std, noise_std=noise_std)
    drawn = family.sample(torch.tensor([0, 1] * 10), generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(drawn).all())
    assert float(drawn.abs().max()) <= 1


@pytest.mark.parametrize("spec", [SPEC, SPEC_3D], ids=["2d", "3d"])
@pytest.mark.parametrize("known", [False, True], ids=["no prior", "prior"])
def test_the_same_seed_gives_the_same_samples_after_a_round_trip(spec: GeneratorSpec, known: bool) -> None:
    family = with_prior(spec) if known else Principal(spec)
    again = generators.load(spec, family.state())
    labels = torch.zeros(5, dtype=torch.int64)
    first = family.sample(labels, generator=torch.Generator().manual_seed(7))
    second = again.sample(labels, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, second)
    assert first.shape == (5, spec.channels, *spec.shape)
    assert first.dtype == torch.float32
    assert float(first.std()) > 0.01


def test_a_new_fit_changes_what_is_sampled() -> None:
    family, labels = with_prior(), torch.zeros(200, dtype=torch.int64)
    before = family.sample(labels, generator=torch.Generator().manual_seed(0)).std(0).mean()
    family.fit(total(family, smooth(200, 1) * 0.3, [0] * 200), noise_std=0.0)
    after = family.sample(labels, generator=torch.Generator().manual_seed(0)).std(0).mean()
    assert float(after) < 0.7 * float(before)


def test_every_hospital_computes_the_same_statistic_from_the_state() -> None:
    family, other = with_prior(), Principal(SPEC)
    other.load_state(family.state())
    one = patient(smooth(2, 3).numpy(), [0, 1])
    assert isinstance(other, Releasable)
    assert np.array_equal(family.statistic(one), other.statistic(one))


@pytest.mark.parametrize("own", [0, 4, 9, 10])
def test_sizes_are_read_from_a_state_without_its_options(own: int) -> None:
    family = Principal(GeneratorSpec("principal", 1, (8, 8), ("a", "b"), {"directions": 10, "own": own}))
    family.set_prior(smooth(60, 0))
    again = Principal.from_state(GeneratorSpec("diffusion", 1, (8, 8), ("a", "b"), {}), family.state())
    labels = torch.tensor([0, 1])
    drawn = (f.sample(labels, generator=torch.Generator().manual_seed(0)) for f in (family, again))
    assert torch.equal(*drawn)


def test_classes_that_differ_in_fine_detail_alone_are_sampled_so() -> None:
    family = Principal(GeneratorSpec("principal", 1, (8, 8), ("a", "b"), {"directions": 4, "own": 2}))
    family.set_prior(smooth(400, 0))
    grain = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(9)) * 0.05
    images = smooth(400, 1) + grain * torch.tensor([0.0, 2.0]).repeat(200).reshape(-1, 1, 1, 1)
    family.fit(total(family, images, [0, 1] * 200), noise_std=0.0)
    drawn = family.sample(torch.tensor([0, 1] * 300), generator=torch.Generator().manual_seed(0))
    detail = drawn.diff(dim=-1).square().mean((1, 2, 3))
    assert float(detail[1::2].mean()) > 2 * float(detail[::2].mean())


def test_triangles_keep_lengths_and_can_be_undone() -> None:
    z = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(vech(z).norm(dim=1), z.square().sum(1))
    assert torch.allclose(unvech(vech(z), 5), z[:, :, None] * z[:, None, :])


def test_what_is_described_is_a_projection() -> None:
    family, images = with_prior(), smooth(5, 4)
    part = family.described(images)
    assert torch.allclose(family.described(part), part, atol=1e-5)
    assert float(part.norm()) < float(images.norm())


@pytest.mark.parametrize("options", [{"colour": 1}, {"directions": 0}, {"directions": "many"}, {"prior": "texture"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(Misconfigured):
        generators.create(GeneratorSpec("principal", 1, (8, 8), ("a",), options))


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "extra", "dtype"])
def test_a_state_that_does_not_fit_is_refused(damage: str) -> None:
    state = Principal(SPEC).state()
    if damage == "missing":
        del state["mean"]
    elif damage == "shape":
        state["mean"] = torch.zeros(3, 10)
    elif damage == "nan":
        state["mean"][0, 0] = math.nan
    elif damage == "extra":
        state["more"] = torch.zeros(1)
    else:
        state["mean"] = state["mean"].double()
    with pytest.raises(ProtocolViolation):
        Principal(SPEC).load_state(state)


def test_bad_patients_and_bad_sums_are_refused_without_their_values() -> None:
    family = Principal(SPEC)
    with pytest.raises(BadData):
        family.statistic(patient(np.full((1, 1, 8, 8), math.nan), [0]))
    with pytest.raises(BadData):
        family.statistic(patient(np.zeros((1, 1, 8, 8)), [2]))
    with pytest.raises(BadData):
        family.fit(np.zeros(3), noise_std=1.0)
