"""DP-SGD as it leaves the engine: who is drawn, how far one patient moves it, how much noise, which bytes.

The weights of `Votes` record everything: under plain gradient descent with learning rate 1, what a step takes off them
is the noisy sum divided by the batch size, and the coordinate of a patient whom the step drew is `clip`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from manikin.common.errors import BadData, Misconfigured
from manikin.common.images import Patient
from manikin.privacy.engine import DPSGD, LocalStatistics, RunningAverage, train
from manikin.privacy.randomness import Stream

FALSE_ALARM = 1e-6
SECRET = bytes(range(32))


class Votes(nn.Module):
    """A loss whose gradient is 1000 in the coordinate that the label names, whatever the image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(size))
        self.frozen = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.ones(2))

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        torch.rand(1, generator=generator)
        return 1000.0 * self.weights[conditions] * self.frozen.mean()

    def private_parameters(self):
        return [self.weights]


def make_cohort(size: int, *, images: int = 1) -> list[Patient]:
    return [
        Patient(f"{i:04x}", np.zeros((images, 1, 2, 2), np.float32), np.full(images, i, np.int64)) for i in range(size)
    ]


def make_settings(**changes) -> DPSGD:
    values = {
        "clip": 0.5,
        "noise_multiplier": 2.0,
        "sample_rate": 0.15,
        "batch_size": 8,
        "draws": 2,
        "learning_rate": 1.0,
        "ema": 0.0,
    }
    return DPSGD(**(values | changes))


def streams(request: bytes = bytes(32), secret: bytes = SECRET):
    return lambda step: Stream(secret, request=request, purpose=f"sgd step {step}")


@pytest.fixture
def plain_descent(monkeypatch):
    """Gradient descent in place of Adam, so that the weights add up what the steps sent."""
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)


def sent(size: int, cohort: list[Patient], *, steps: int = 1, **changes) -> np.ndarray:
    """Sum of what the steps sent, in units of the sum (before the division by the batch size)."""
    model, values = Votes(size), make_settings(**changes)
    train(model, cohort, settings=values, steps=range(steps), stream_for=streams())
    return -model.weights.detach().double().numpy() * values.batch_size


@pytest.mark.parametrize(("clip", "noise_multiplier"), [(0.5, 2.0), (3.0, 0.7)])
def test_noise_has_the_standard_deviation_that_the_accountant_was_told(plain_descent, clip, noise_multiplier):
    size = 50_000
    noise = sent(size, [], clip=clip, noise_multiplier=noise_multiplier) / (clip * noise_multiplier)
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < np.square(noise).sum() < high
    assert stats.kstest(noise, "norm").pvalue > FALSE_ALARM


def test_noise_of_different_steps_is_unrelated(plain_descent):
    size, steps = 20_000, 4
    noise = sent(size, [], steps=steps) / (0.5 * 2.0 * np.sqrt(steps))
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < np.square(noise).sum() < high


@pytest.mark.parametrize("images", [1, 3])
def test_a_patient_moves_the_sum_by_the_clip_and_no_more(plain_descent, images):
    cohort = make_cohort(20, images=images)
    quiet = {"noise_multiplier": 1e-6, "sample_rate": 1.0}
    assert np.allclose(sent(20, cohort, **quiet), 0.5, atol=1e-4)
    assert np.allclose(sent(20, cohort[1:], **quiet)[0], 0.0, atol=1e-4)


def test_every_patient_is_drawn_at_the_plan_s_rate_on_their_own(plain_descent):
    size, steps, rate = 60, 200, 0.15
    counts = np.rint(sent(size, make_cohort(size), steps=steps, noise_multiplier=1e-5, sample_rate=rate) / 0.5)
    assert stats.binomtest(int(counts.sum()), size * steps, rate).pvalue > FALSE_ALARM
    assert min(stats.binomtest(int(k), steps, rate).pvalue for k in counts) > FALSE_ALARM / size
    spread = np.square(counts - steps * rate).sum() / (steps * rate * (1 - rate))
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < spread < high


def test_drawn_numbers_vary_as_poisson_sampling_s_do():
    size, steps, rate = 100, 200, 0.3
    statistics = LocalStatistics()
    train(
        Votes(size),
        make_cohort(size),
        settings=make_settings(sample_rate=rate, draws=1),
        steps=range(steps),
        stream_for=streams(),
        statistics=statistics,
    )
    z = (np.array(statistics.drawn) - size * rate) / np.sqrt(size * rate * (1 - rate))
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], steps)
    assert low < np.square(z).sum() < high
    assert statistics.clipped == statistics.drawn


@pytest.mark.parametrize("size", [3, 30])
def test_the_divisor_is_the_plan_s_whatever_was_drawn(plain_descent, size):
    model = Votes(size)
    values = make_settings(noise_multiplier=1e-6, sample_rate=1.0, batch_size=10)
    train(model, make_cohort(size), settings=values, steps=range(1), stream_for=streams())
    assert np.allclose(model.weights.detach(), -0.5 / 10, atol=1e-5)


def weights_after(steps=range(3), *, cohort=None, request=bytes(32), secret=SECRET, start=None, **changes):
    model = Votes(30)
    if start is not None:
        model.weights.data.copy_(start)
    train(
        model,
        make_cohort(30) if cohort is None else cohort,
        settings=make_settings(**changes),
        steps=steps,
        stream_for=streams(request, secret),
    )
    return model.weights.detach().clone()


def test_the_same_request_gives_the_same_bytes_whatever_the_order_and_torch_s_own_generator():
    first = weights_after()
    torch.manual_seed(7)
    assert torch.equal(first, weights_after(cohort=make_cohort(30)[::-1]))


def test_a_round_resumed_from_its_start_gives_the_same_bytes():
    middle = weights_after(range(3))
    end = weights_after(range(3, 6), start=middle, request=bytes([1]) * 32)
    assert torch.equal(end, weights_after(range(3, 6), start=middle, request=bytes([1]) * 32))


@pytest.mark.parametrize(
    "change", [{"request": bytes([1]) * 32}, {"secret": bytes(32)}, {"steps": range(1, 4)}], ids=lambda c: next(iter(c))
)
def test_another_request_secret_or_step_has_other_noise(change):
    usual = weights_after(cohort=[], steps=range(3))
    assert not torch.any(usual == weights_after(**({"cohort": [], "steps": range(3)} | change)))


def test_an_empty_draw_still_takes_a_noisy_step():
    assert torch.all(weights_after(cohort=[]) != 0)
    assert torch.all(weights_after(sample_rate=1e-12) != 0)


def test_nothing_but_private_parameters_moves():
    model = Votes(30)
    flags = [p.requires_grad for p in model.parameters()]
    done = []
    train(model, make_cohort(30), settings=make_settings(), steps=range(2), stream_for=streams(), progress=done.append)
    assert torch.equal(model.frozen, torch.ones(3))
    assert torch.equal(model.table, torch.ones(2))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.weights.grad is None
    assert done == [1, 1]


def test_a_patient_listed_twice_is_refused():
    with pytest.raises(BadData, match="twice"):
        weights_after(cohort=[*make_cohort(3), make_cohort(1)[0]])


def test_a_running_average_forgets_the_start_and_follows_its_decay():
    weights = nn.Parameter(torch.zeros(1))
    average = RunningAverage([weights], decay=0.5)
    expected = 0.0
    for count, value in enumerate([1.0, 1.0, 4.0, 2.0] * 5, start=1):
        weights.data.fill_(value)
        average.update()
        decay = min(0.5, count / (count + 9))
        expected = decay * expected + (1 - decay) * value
    average.write()
    assert float(weights.detach()) == pytest.approx(expected, rel=1e-5)


def test_without_averaging_a_call_ends_with_its_last_weights(plain_descent):
    assert np.allclose(sent(5, make_cohort(5), steps=7, noise_multiplier=1e-6, sample_rate=1.0), 7 * 0.5, atol=1e-4)
    averaged = sent(5, make_cohort(5), steps=7, noise_multiplier=1e-6, sample_rate=1.0, ema=0.9)
    assert np.all((averaged > 3 * 0.5) & (averaged < 6.9 * 0.5))


@pytest.mark.parametrize("name", ["clip", "noise_multiplier", "sample_rate", "learning_rate"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_void_the_guarantee_are_refused(name, bad):
    with pytest.raises(Misconfigured, match=name):
        make_settings(**{name: bad})


@pytest.mark.parametrize(
    "change", [{"sample_rate": 1.1}, {"batch_size": 0}, {"draws": 0}, {"ema": 1.0}, {"ema": float("nan")}]
)
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(Misconfigured):
        make_settings(**change)
