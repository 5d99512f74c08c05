"""The whole audit: honest generators rarely fail, leaky ones do, small cohorts stay inconclusive."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from manikin.common.errors import BadData, Misconfigured
from manikin.privacy.audit import combine, run_audit, work_units

SIZES = (800, 200, 200)


def cohort(images, rng, sizes=SIZES, shape=(8, 8), each=1):
    return [images(rng, each * size, shape) for size in sizes]


def verdicts(result):
    return {finding.name: finding.verdict for finding in result.findings}


@pytest.mark.parametrize("collapsed", [False, True], ids=["fresh", "mode-collapsed"])
def test_an_honest_generator_fails_no_more_often_than_the_level(images, run, collapsed):
    rng, repetitions, failures = np.random.default_rng(4 + collapsed), 40, 0
    for _ in range(repetitions):
        synthetic = images(rng, 150)
        if collapsed:
            synthetic = synthetic[rng.integers(0, 5, 150)] + 0.02 * rng.normal(size=synthetic.shape)
        result = run(*cohort(images, rng, (200, 60, 110)), synthetic.astype(np.float32))
        failures += result.verdict == "fail"
    assert failures <= binom.isf(1e-4, repetitions, 0.05)


def test_an_honest_generator_of_an_adequate_cohort_passes(images, run, denoiser):
    rng = np.random.default_rng(0)
    synthetic = images(rng, 600)
    result = run(*cohort(images, rng), synthetic, generator=denoiser(synthetic), tpr_limit=0.1)
    assert verdicts(result) == dict.fromkeys(("membership-distance", "membership-loss", "re-identification"), "pass")
    assert result.verdict == "pass"


@pytest.mark.parametrize(
    "change",
    [
        lambda x, rng: x,
        lambda x, rng: x + 0.1 * rng.normal(size=x.shape),
        lambda x, rng: np.flip(x, -1),
        lambda x, rng: np.roll(np.flip(x, -1), 1, -2),
        lambda x, rng: 0.6 * x + 0.2,
    ],
    ids=["exact", "noisy", "mirrored", "mirrored-and-shifted", "contrast"],
)
def test_copies_of_training_patients_fail(images, run, change):
    rng = np.random.default_rng(1)
    train, holdout, calibration = cohort(images, rng, shape=(16, 16))
    synthetic = images(rng, 600, (16, 16))
    synthetic[:60] = change(train[:60], rng)
    result = run(train, holdout, calibration, synthetic)
    assert result.verdict == "fail"
    assert verdicts(result)["re-identification"] == "fail"
    named = result.findings[-1].details["fewest_detectable"]
    assert named is not None
    assert named <= 60


def test_copies_fail_in_three_dimensions_too(images, run):
    rng = np.random.default_rng(1)
    train, holdout, calibration = cohort(images, rng, (200, 60, 60), (8, 10, 6))
    synthetic = np.concatenate([np.flip(train[:60], 2), images(rng, 100, (8, 10, 6))])
    assert run(train, holdout, calibration, synthetic).verdict == "fail"


def test_a_memoriser_fails_by_its_loss_though_its_images_are_fresh(images, run, denoiser):
    rng = np.random.default_rng(2)
    train, holdout, calibration = cohort(images, rng)
    result = run(train, holdout, calibration, images(rng, 300), generator=denoiser(train))
    assert verdicts(result)["membership-loss"] == "fail"
    loss = next(finding for finding in result.findings if finding.name == "membership-loss")
    assert loss.details["contradicts_claim"]
    assert "error in code or accounting" in loss.reason


def test_a_memoriser_of_the_holdout_is_not_called_a_leak_of_training_patients(images, run, denoiser):
    rng = np.random.default_rng(3)
    train, holdout, calibration = cohort(images, rng)
    synthetic = np.concatenate([holdout[:100], images(rng, 200)])
    assert run(train, holdout, calibration, synthetic, generator=denoiser(holdout)).verdict != "fail"


def test_a_small_cohort_is_inconclusive_and_told_what_it_would_need(images, run, denoiser):
    rng = np.random.default_rng(4)
    synthetic = images(rng, 100)
    result = run(*cohort(images, rng, (40, 5, 5)), synthetic, generator=denoiser(synthetic))
    assert set(verdicts(result).values()) == {"inconclusive"}
    assert all("would be needed" in finding.reason for finding in result.findings)


def test_a_gross_leak_fails_even_without_a_threshold(images, run, denoiser):
    rng = np.random.default_rng(5)
    train, holdout, calibration = cohort(images, rng, (200, 40, 40))
    result = run(train, holdout, calibration, images(rng, 50), generator=denoiser(train))
    loss = next(finding for finding in result.findings if finding.name == "membership-loss")
    assert loss.threshold is None
    assert loss.verdict == "fail"


def test_a_single_copied_patient_is_no_proof_but_must_be_looked_at(images, run):
    rng = np.random.default_rng(6)
    train, holdout, calibration = cohort(images, rng)
    synthetic = images(rng, 300)
    synthetic[0] = train[5]
    finding = run(train, holdout, calibration, synthetic, tpr_limit=0.1).findings[-1]
    assert finding.verdict == "inconclusive"
    assert "a person must look" in finding.reason


@pytest.mark.parametrize("sizes", [(0, 0, 0), (5, 0, 0), (0, 5, 5), (1, 1, 1), (2, 0, 3)])
def test_hardly_any_patients_end_inconclusive_and_not_in_an_error(images, run, denoiser, sizes):
    synthetic = images(np.random.default_rng(8), 3)
    cohorts = cohort(images, np.random.default_rng(7), sizes)
    result = run(*cohorts, synthetic, generator=denoiser(synthetic))
    assert result.verdict == "inconclusive"
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_result_depends_on_patients_and_seed_but_not_on_their_order(images, patients, make_settings, denoiser):
    rng = np.random.default_rng(9)
    groups = dict(zip(("train", "holdout", "calibration"), cohort(images, rng, (120, 20, 20)), strict=True))
    cohorts = {name: patients(group, name[0]) for name, group in groups.items()}
    synthetic, labels, generator = images(rng, 50), np.zeros(50, np.int64), denoiser(images(rng, 30))

    def outcome(order, seed):
        given = {name: group[::order] for name, group in cohorts.items()}
        result = run_audit(generator, synthetic, labels, **given, settings=make_settings(seed=seed))
        return json.dumps(result.to_dict(), sort_keys=True)

    assert outcome(1, 3) == outcome(1, 3) == outcome(-1, 3)
    assert outcome(1, 3) != outcome(1, 4)


def test_patients_with_several_images_count_once(images, run):
    rng = np.random.default_rng(10)
    repetitions, failures = 20, 0
    for _ in range(repetitions):
        groups = [np.repeat(group, 4, axis=0) for group in cohort(images, rng, (100, 30, 30))]
        noisy = [(g + 0.05 * rng.normal(size=g.shape)).astype(np.float32) for g in groups]
        failures += run(*noisy, images(rng, 60), each=4).verdict == "fail"
    assert failures <= binom.isf(1e-4, repetitions, 0.05)
    assert run(*noisy, images(rng, 60), each=4).sizes["train"] == 100


def test_work_is_announced_and_then_done(images, patients, make_settings, denoiser, silent):
    rng = np.random.default_rng(11)
    groups = {"train": patients(images(rng, 300), "a", each=2), "holdout": patients(images(rng, 20), "b")}
    groups["calibration"] = patients(images(rng, 10), "c")
    for generator in (silent, denoiser(images(rng, 5))):
        done = []
        run_audit(
            generator, images(rng, 9), np.zeros(9, np.int64), **groups, settings=make_settings(), progress=done.append
        )
        assert sum(done) == work_units(generator, **groups, seed=make_settings().seed)


def test_images_that_cannot_be_compared_are_refused(images, run):
    rng = np.random.default_rng(12)
    groups = cohort(images, rng, (5, 5, 5))
    with pytest.raises(BadData, match="cannot compare"):
        run(*groups, images(rng, 4, (8, 9)))
    with pytest.raises(BadData, match="cannot compare"):
        run(*groups, images(rng, 0))
    with pytest.raises(BadData, match="not a finite number"):
        run(*groups, np.full((3, 1, 8, 8), np.nan, np.float32))


@pytest.mark.parametrize(
    "change",
    [{"fpr": 0.0}, {"alpha": 1.0}, {"tpr_limit": 0.01}, {"epsilon": 0.0}, {"delta": float("nan")}, {"seed": -1}],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(make_settings, change):
    with pytest.raises(Misconfigured, match="audit settings"):
        make_settings(**change)


def test_limits_follow_the_smaller_of_claim_and_plan(make_settings):
    assert make_settings(epsilon=1.0).fail_limit == pytest.approx(0.0198, abs=1e-4)
    assert make_settings(epsilon=8.0).fail_limit == 0.05
    assert make_settings(epsilon=8.0).allowed_tpr == pytest.approx(0.255, abs=1e-3)


def test_combining_takes_the_worst():
    assert combine(["pass", "pass"]) == "pass"
    assert combine(["pass", "inconclusive"]) == "inconclusive"
    assert combine(["inconclusive", "fail", "pass"]) == "fail"
    assert combine([]) == "inconclusive"
