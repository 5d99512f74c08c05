"""Patients who share a pass get the gradients that passes of their own would give them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manikin.common.generators.base import GeneratorSpec
from manikin.common.generators.diffusion import Diffusion
from manikin.common.images import Patient
from manikin.privacy import gradients
from manikin.privacy.gradients import LocalStatistics, add_clipped, clipped_sum, only_private
from manikin.privacy.layers import can_share
from manikin.privacy.randomness import Stream

GRID = 2.0**-40
FEW = ("film", "embedding", "output")


class Family(nn.Module):
    """Any network as a family that can share; the noise makes draws differ."""

    def __init__(self, net: nn.Module, private: list[nn.Parameter] | None = None) -> None:
        super().__init__()
        self.net, self._private = net, private
        generator = torch.Generator().manual_seed(3)
        for p in net.parameters():
            nn.init.normal_(p, std=0.3, generator=generator)

    def private_parameters(self):
        return list(self.net.parameters()) if self._private is None else self._private

    def draw(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        return images + 0.1 * torch.randn(images.shape, generator=generator), conditions

    def error(self, *drawn: Tensor) -> Tensor:
        noisy, labels = drawn
        out = self.net(labels if isinstance(self.net, nn.Embedding) else noisy)
        return (out.flatten(1) - labels[:, None]).square().mean(1)

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.error(*self.draw(images, conditions, generator=generator))


def make_diffusion(*private: str, shape=(9, 10)) -> Diffusion:
    options = {"channels": 8, "private_parameters": list(private)}
    family = Diffusion(GeneratorSpec("diffusion", 1, shape, ("a", "b"), options))
    generator = torch.Generator().manual_seed(2)
    for p in family.net.parameters():
        nn.init.normal_(p, std=0.1, generator=generator)
    return family


def make_patients(count: int, *, shape=(9, 10), images: int = 1, first: int = 0) -> list[Patient]:
    rng = np.random.default_rng(first)
    values = rng.uniform(-1, 1, (count, images, 1, *shape)).astype(np.float32)
    return [Patient(f"{first + i:04x}", values[i], np.arange(images) % 2) for i in range(count)]


def total_of(model, patients, *, share, bound=1.0, draws=3, statistics=None):
    stream = Stream(bytes(32), request=bytes(32), purpose="draws")
    return clipped_sum(
        model, patients, bound=bound, grid=GRID, draws=draws, stream=stream, share=share, statistics=statistics
    )


def difference(one, other) -> float:
    assert np.linalg.norm(other) > 0
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def count_errors(monkeypatch, model) -> list[int]:
    """Rows of each call of `error`, from now on."""
    rows, original = [], model.error
    monkeypatch.setattr(model, "error", lambda *drawn: rows.append(len(drawn[0])) or original(*drawn))
    return rows


@pytest.mark.parametrize("private", [("all",), FEW, ("norm",), ("input", "embedding"), ("output",)], ids="+".join)
@pytest.mark.parametrize("shape", [(9, 10), (6, 5, 4)], ids=["2d", "3d"])
@pytest.mark.parametrize("bound", [1e-2, 1e3])
def test_sums_of_both_paths_are_equal_to_rounding(private, shape, bound):
    model = make_diffusion(*private, shape=shape)
    patients = make_patients(5, shape=shape) + make_patients(2, shape=shape, images=4, first=50)
    seen = {True: LocalStatistics(), False: LocalStatistics()}
    shared, alone = (total_of(model, patients, share=s, bound=bound, statistics=seen[s]) for s in (True, False))
    assert difference(shared, alone) < 1e-5
    assert seen[True].loss == pytest.approx(seen[False].loss, rel=1e-5)
    assert seen[True].clipped == seen[False].clipped == [7 if bound < 1 else 0]


def test_small_patients_share_passes_of_bounded_size_and_large_ones_do_not(monkeypatch):
    model, patients = make_diffusion(*FEW), make_patients(7) + make_patients(1, images=20, first=50)
    expected = total_of(model, patients, share=False)
    rows = count_errors(monkeypatch, model)
    monkeypatch.setattr(gradients, "SHARED_VOXELS", 3 * 3 * 90 + 17)  # three patients of one image, three draws
    assert difference(total_of(model, patients, share=True), expected) < 1e-5
    assert rows == [9, 9, 9, 60], "the last pass is filled up"


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2, bias=False)),
        nn.Sequential(nn.Conv2d(1, 4, 1, stride=2), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1, padding=1)),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 4, 5, padding=2), nn.Tanh(), nn.Linear(90, 3)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(1), nn.Linear(4 * 7 * 8, 2, bias=False)),
        nn.Embedding(2, 5),
    ],
    ids=["stride", "groups", "1x1", "1d", "norm", "embedding"],
)
def test_layers_of_every_geometry(net, monkeypatch):
    model, patients = Family(net), make_patients(4, images=2)
    assert can_share(model, model.private_parameters())
    alone = total_of(model, patients, share=False)
    rows = count_errors(monkeypatch, model)
    assert difference(total_of(model, patients, share=True), alone) < 1e-5
    assert rows == [6 * gradients.PATIENTS_PER_PASS]


class Twice(nn.Module):
    """One layer used twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.conv = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.tanh(self.conv(x)))


def test_a_layer_used_twice_counts_twice_and_an_idle_one_not_at_all():
    model, patients = Family(Twice()), make_patients(4)
    shared = total_of(model, patients, share=True)
    assert difference(shared, total_of(model, patients, share=False)) < 1e-5
    assert not shared[:2].any()
    assert shared[2:].all()


def test_an_idle_layer_s_zeros_are_not_left_from_another_pass(monkeypatch):
    class Sometimes(Twice):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(self.idle(x) if self.calls != 3 else x)

    monkeypatch.setattr(gradients, "SHARED_VOXELS", 2 * 3 * 90)
    patients, sums = make_patients(5), []
    for drawn in (patients, patients[:4]):
        net = Sometimes()
        net.calls = 0
        sums.append(total_of(Family(net), drawn, share=True))
    assert sums[1][:2].any()
    assert not (sums[0] - sums[1])[:2].any()


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.LayerNorm(10),
        nn.ConvTranspose2d(1, 2, 3),
        nn.Embedding(2, 3, padding_idx=1),
    ],
    ids=["same", "reflect", "layer norm", "transposed", "padding index"],
)
def test_layers_that_are_not_known_have_passes_of_their_own(net, monkeypatch):
    model, patients = Family(net), make_patients(3)
    assert not can_share(model, model.private_parameters())
    rows = count_errors(monkeypatch, model)
    assert total_of(model, patients, share=True).any()
    assert rows == [3, 3, 3]


def test_a_parameter_outside_the_layers_keeps_a_model_from_sharing():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(1, 1, 3), nn.Parameter(torch.ones(1))

    model = Family(Scaled())
    assert can_share(model, list(model.net.conv.parameters()))
    assert not can_share(model, model.private_parameters())


def test_one_patient_more_changes_the_sum_by_at_most_the_bound_and_others_by_rounding():
    model, patients = make_diffusion("all"), make_patients(12)
    change = total_of(model, patients, share=True) - total_of(model, patients[1:], share=True)
    assert np.linalg.norm(change) <= 1 + 1e-6
    assert np.allclose(change, total_of(model, patients[:1], share=True), atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_patient_who_is_not_finite_spoils_nobody_else_s_gradient(value):
    model, patients, statistics = make_diffusion("all"), make_patients(6), LocalStatistics()
    patients[2].images[0, 0, 3, 3] = value
    total = total_of(model, patients, share=True, statistics=statistics)
    others = [p for i, p in enumerate(patients) if i != 2]
    assert np.allclose(total, total_of(model, others, share=True), atol=1e-6)
    assert statistics.not_finite == [1]


class Masks(TorchDispatchMode):
    """Which gradients the backward passes of convolutions were asked for: input, weight, bias."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(args[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("share", "passes"), [(True, 1), (False, 3)])
def test_few_private_parameters_cost_no_other_weight_s_gradient(share, passes):
    model, masks = make_diffusion(*FEW), Masks()
    with masks:
        total_of(model, make_patients(3), share=share)
    weights = [mask for mask in masks.seen if mask[1]]
    assert len(weights) == 3  # the output layer's, once a patient
    inputs = [mask for mask in masks.seen if mask[0]]
    layers = sum(isinstance(m, nn.Conv2d) for m in model.net.modules())
    assert 0 < len(inputs) < passes * layers  # nothing flows back to what comes before the first private layer


@pytest.mark.parametrize("share", [True, False])
def test_each_clipped_gradient_is_handed_over_and_may_be_written_to(share):
    model, patients, norms = make_diffusion(*FEW), make_patients(5) + make_patients(1, images=2, first=50), []
    stream = Stream(bytes(32), request=bytes(32), purpose="draws")
    total = np.zeros(sum(p.numel() for p in model.private_parameters()))

    def add(gradient):
        norms.append(np.linalg.norm(gradient))
        total[:] += gradient
        gradient[:] = np.nan

    add_clipped(model, patients, bound=0.1, draws=3, stream=stream, add=add, share=share)
    assert len(norms) == 6
    assert max(norms) <= 0.1 * (1 + 1e-12)
    assert difference(total, total_of(model, patients, share=share, bound=0.1)) < 1e-9


def test_sums_do_not_depend_on_whether_the_caller_froze_the_rest():
    model, patients = make_diffusion(*FEW), make_patients(4)
    free = total_of(model, patients, share=True)
    assert all(p.requires_grad for p in model.net.parameters())
    with only_private(model, list(model.private_parameters())):
        assert np.array_equal(total_of(model, patients, share=True), free)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu_gives_the_sums_of_the_cpu():
    model, patients = make_diffusion("all"), make_patients(5) + make_patients(1, images=4, first=50)
    cpu = total_of(model, patients, share=True)
    model.net.cuda()
    for share in (True, False):
        assert difference(total_of(model, patients, share=share), cpu) < 1e-3


@pytest.mark.parametrize("private", [FEW, ("all",)])
def test_whoever_else_was_drawn_leaves_a_patient_s_gradient_bit_for_bit(private):
    model, patients = make_diffusion(*private, shape=(12, 12)), make_patients(9, shape=(12, 12))

    def gradients_of(drawn):
        stream = Stream(bytes(32), request=bytes(32), purpose="draws")
        with only_private(model, gradients.private_parameters(model)):
            found = gradients.gradients(model, drawn, draws=4, stream=stream)
            return {patient.key: gradient.copy() for patient, (gradient, _) in zip(drawn, found, strict=True)}

    everyone = gradients_of(patients)
    for drawn in (patients[:1], patients[3:5], patients[1:], patients[:8]):
        for key, gradient in gradients_of(drawn).items():
            assert np.array_equal(gradient, everyone[key])
