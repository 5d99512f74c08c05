"""One bounded gradient a patient: equal to independent computations, and nobody else's business."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import Tensor, nn

from manikin.common.errors import Misconfigured
from manikin.common.images import Patient
from manikin.privacy import gradients
from manikin.privacy.gradients import LocalStatistics, clipped_sum, only_private, patient_gradient, private_parameters
from manikin.privacy.randomness import Stream

GRID = 2.0**-30


class Denoiser(nn.Module):
    """A small convolutional network with a loss of images alone, or of images and noise."""

    def __init__(self, *, noise: float = 0.0, norm: nn.Module | None = None, spatial_dims: int = 2) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first = convolution(1, 4, 3, padding=1)
            self.norm = norm or nn.GroupNorm(2, 4)
            self.second = convolution(4, 1, 3, padding=1)
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(images))))

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        noisy = images + self.noise * torch.randn(images.shape, generator=generator) if self.noise else images
        return (self(noisy) - conditions.reshape(-1, *[1] * (images.ndim - 1))).square().flatten(1).sum(1)

    def private_parameters(self):
        return self.parameters()


def make_patient(number: int, *, images: int = 1, shape=(6, 6)) -> Patient:
    rng = np.random.default_rng(number)
    values = rng.uniform(-1, 1, (images, 1, *shape)).astype(np.float32)
    return Patient(f"{number:04x}", values, rng.integers(0, 2, images))


def make_stream() -> Stream:
    return Stream(bytes(32), request=bytes(32), purpose="draws")


def total_of(model, patients, *, bound=1.0, draws=1, statistics=None):
    return clipped_sum(
        model, patients, bound=bound, grid=GRID, draws=draws, stream=make_stream(), statistics=statistics
    )


def gradient_of(model, patient, *, draws=1, seed=0):
    parameters = private_parameters(model)
    generator = torch.Generator().manual_seed(seed)
    return patient_gradient(model, parameters, patient, draws=draws, generator=generator)


@pytest.mark.parametrize("bound", [1.0, 10.0, 1e6])
def test_the_sum_is_that_of_opacus_per_sample_gradients_clipped(bound):
    patients = [make_patient(i) for i in range(12)]
    model = Denoiser()
    wrapped = GradSampleModule(Denoiser(), loss_reduction="sum")
    images = torch.from_numpy(np.concatenate([p.images for p in patients])).requires_grad_()
    labels = torch.from_numpy(np.concatenate([p.labels for p in patients]))
    (wrapped(images) - labels.reshape(-1, 1, 1, 1)).square().sum().backward()
    samples = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], 1).double()
    factors = (bound / samples.norm(dim=1)).clamp(max=1.0)
    expected = (factors[:, None] * samples).sum(0).numpy()
    assert np.allclose(total_of(model, patients, bound=bound), expected, atol=1e-5 * min(bound, 100.0))


def test_the_gradient_of_a_patient_is_the_mean_over_images_by_functional_autograd():
    patient, model = make_patient(3, images=5), Denoiser()

    def mean_loss(parameters):
        images, labels = torch.from_numpy(patient.images), torch.from_numpy(patient.labels)
        out = torch.func.functional_call(model, parameters, (images,))
        return (out - labels.reshape(-1, 1, 1, 1)).square().sum() / len(images)

    expected = torch.func.grad(mean_loss)(dict(model.named_parameters()))
    gradient, loss = gradient_of(model, patient)
    assert np.allclose(gradient, torch.cat([g.flatten() for g in expected.values()]).detach().numpy(), atol=1e-5)
    assert loss == pytest.approx(float(mean_loss(dict(model.named_parameters())).detach()), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    members=st.sets(st.integers(0, 30), max_size=6),
    one=st.integers(31, 40),
    bound=st.floats(0.01, 100),
    images=st.integers(1, 4),
)
def test_one_patient_more_changes_the_sum_by_at_most_the_bound(members, one, bound, images):
    model = Denoiser(noise=1.0)
    others, joining = [make_patient(i) for i in members], make_patient(one, images=images)
    change = total_of(model, [joining, *others], bound=bound, draws=2) - total_of(model, others, bound=bound, draws=2)
    alone = total_of(model, [joining], bound=bound, draws=2)
    assert np.linalg.norm(change) <= bound * (1 + 1e-12)
    assert np.array_equal(change, alone)


def test_twenty_equal_slices_or_four_draws_of_one_patient_count_as_one_image():
    one, model = make_patient(7), Denoiser()
    many = Patient(one.key, np.repeat(one.images, 20, axis=0), np.repeat(one.labels, 20))
    single = total_of(model, [one], bound=1e6)
    for total in (total_of(model, [many], bound=1e6), total_of(model, [one], bound=1e6, draws=4)):
        assert np.allclose(total, single, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(total_of(model, [many], draws=4)) <= 1.0


def test_draws_differ_from_each_other_and_are_averaged():
    patient, model = make_patient(5), Denoiser(noise=1.0)
    single = [gradient_of(model, patient, seed=seed)[0] for seed in range(40)]
    averaged = [gradient_of(model, patient, draws=8, seed=seed)[0] for seed in range(40)]
    assert np.std(averaged, axis=0).mean() < 0.6 * np.std(single, axis=0).mean()


@pytest.mark.parametrize(("spatial_dims", "shape"), [(2, (6, 6)), (3, (4, 6, 4))])
def test_passes_of_bounded_size_add_up_to_one_pass(monkeypatch, spatial_dims, shape):
    patient, model = make_patient(4, images=5, shape=shape), Denoiser(spatial_dims=spatial_dims)
    whole, loss = gradient_of(model, patient, draws=3)
    sizes = []
    original = model.loss
    monkeypatch.setattr(
        model, "loss", lambda x, y, generator: sizes.append(len(x)) or original(x, y, generator=generator)
    )
    monkeypatch.setattr(gradients, "VOXELS_PER_PASS", 4 * math.prod(shape))
    parts, loss_in_parts = gradient_of(model, patient, draws=3)
    assert sizes == [4, 4, 4, 3]
    assert np.allclose(parts, whole, rtol=1e-4, atol=1e-6)
    assert loss_in_parts == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_counts_as_zero_and_says_nothing(value):
    broken, statistics = make_patient(1), LocalStatistics()
    broken.images[0, 0, 2, 2] = value
    others = [make_patient(2), make_patient(3)]
    total = total_of(Denoiser(), [broken, *others], statistics=statistics)
    assert np.array_equal(total, total_of(Denoiser(), others))
    assert statistics.drawn == [3]
    assert statistics.not_finite == [1]


def test_nobody_drawn_gives_zeros_and_statistics_without_a_loss():
    statistics = LocalStatistics()
    assert not total_of(Denoiser(), [], statistics=statistics).any()
    assert statistics.drawn == [0]
    assert math.isnan(statistics.loss[0])


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
)
def test_layers_that_keep_statistics_of_patients_are_refused(norm):
    model = Denoiser(norm=norm)
    with pytest.raises(Misconfigured, match="layer"), only_private(model, private_parameters(model)):
        pass


def test_only_private_parameters_take_part_and_all_is_as_before_afterwards():
    class Family:
        """A family that holds its network, as the registered ones do."""

        def __init__(self):
            self.net = Denoiser()
            self.net.register_buffer("seen", torch.zeros(1))
            self.net.first.bias.requires_grad_(False)

        def private_parameters(self):
            return [self.net.second.bias]

    family = Family()
    before = [p.requires_grad for p in family.net.parameters()]
    with only_private(family, family.private_parameters()):
        assert [n for n, p in family.net.named_parameters() if p.requires_grad] == ["second.bias"]
        family.net.seen += 1
    assert [p.requires_grad for p in family.net.parameters()] == before
    assert family.net.seen == 0


def test_a_model_without_private_parameters_is_refused():
    model = Denoiser()
    model.private_parameters = list
    with pytest.raises(Misconfigured, match="nothing to train"):
        private_parameters(model)


def test_a_model_that_hides_its_modules_is_refused():
    class Hidden:
        def __init__(self):
            self.nets = [Denoiser()]

        def private_parameters(self):
            return list(self.nets[0].parameters())

    model = Hidden()
    with pytest.raises(Misconfigured, match="no module"), only_private(model, private_parameters(model)):
        pass
