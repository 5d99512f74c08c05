"""The first audit of a trained generator: membership inference and re-identification, at one hospital.

Promises: the same generator, images, patients and settings give the same result, whatever the order of the patients;
a generator that treats trained-on and other patients alike fails with probability at most α, mode-collapsed or not;
too few patients end inconclusive. Does not promise that stronger attacks than these would find nothing.

Everything here is computed from patients, not noised and not charged: the result is the hospital's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from manikin.common.errors import BadData
from manikin.common.generators.base import Generator, Trainable
from manikin.common.images import Float32Array, Int64Array, Patient
from manikin.privacy.audit.claim import tpr_bound
from manikin.privacy.audit.copies import Copies, measure_copies
from manikin.privacy.audit.finding import Finding, Verdict, combine, judge
from manikin.privacy.audit.inference import Inference, measure_inference
from manikin.privacy.audit.membership import Scores, distance_scores, loss_scores
from manikin.privacy.audit.reidentification import Likeness, measure_likeness
from manikin.privacy.audit.settings import AuditSettings
from manikin.privacy.audit.statistics import holm

SCHEMA = 1
LOSS_DRAWS = 8
LOSS_TRAIN_PER_HOLDOUT = 3
PAIRS_SHOWN = 6
NOT_TESTED = (
    "attacks with reference models or planted canaries, which are stronger than the ones used here",
    "copies that were rotated, bent or cut into patches, and likeness that only a trained eye would see",
    "whether an attribute of a patient (age, sex, a finding) can be inferred, or records linked",
    "what the coordinator or another hospital could learn from messages during training",
    "patients whose scans are also held by another hospital",
)
Progress = Callable[[int], None] | None


@dataclass(frozen=True, eq=False)
class Pair:
    """A real image and the synthetic image most like it: patient data, for the hospital's own page only."""

    key: str
    trained_on: bool
    real: Float32Array
    synthetic: Float32Array
    real_label: int
    synthetic_label: int
    correlation: float


@dataclass(frozen=True, eq=False)
class AuditResult:
    """Verdict, findings, and the scores and pairs that a page draws.

    `to_dict` leaves out scores and pairs; nothing of this object may leave the hospital.
    """

    settings: AuditSettings
    verdict: Verdict
    findings: tuple[Finding, ...]
    sizes: dict[str, int]
    attacks: dict[str, Scores]
    train_likeness: Likeness
    other_likeness: Likeness
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only, the same for the same result."""
        s = self.settings
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "settings": asdict(s),
            "claim": {
                "mu": s.mu,
                "tpr_allowed": s.allowed_tpr,
                "tpr_bound": tpr_bound(s.fpr, epsilon=s.epsilon, delta=s.delta),
                "fail_above": s.fail_limit,
            },
            "sizes": dict(self.sizes),
            "findings": [asdict(finding) for finding in self.findings],
            "not_tested": list(NOT_TESTED),
        }


def run_audit(
    generator: Generator,
    synthetic: Float32Array,
    synthetic_labels: Int64Array,
    *,
    train: list[Patient],
    holdout: list[Patient],
    calibration: list[Patient],
    settings: AuditSettings,
    progress: Progress = None,
) -> AuditResult:
    """Audit one generator against one hospital's patients.

    Args:
        generator: as it would be released.
        synthetic: float32 (m, channels, *spatial), drawn from it, with the classes `synthetic_labels` int64 (m,).
        train: patients it was trained on.
        holdout, calibration: patients it was not; split at random from the same cohort before training.
        settings: limits and levels of the plan.
        progress: called with the number of images just scored; `work_units` says how many there will be.

    Raises:
        BadData: images are not finite, or shapes differ.
    """
    train, holdout, calibration = (sorted(group, key=lambda p: p.key) for group in (train, holdout, calibration))
    _check(synthetic, synthetic_labels, [*train, *holdout, *calibration])
    attacks = {"distance": _distances(train, holdout, calibration, synthetic, progress)}
    if isinstance(generator, Trainable):
        chosen = loss_sample(train, holdout, seed=settings.seed)
        attacks["loss"] = _losses(chosen, holdout, calibration, generator, settings.seed, progress)
    everyone = [*train, *holdout, *calibration]
    likeness = measure_likeness(everyone, synthetic, rng=np.random.default_rng([settings.seed, 1]), progress=progress)
    ours, others = likeness.part(slice(len(train))), likeness.part(slice(len(train), None))
    findings = _findings(attacks, ours, others, settings)
    pairs = (
        *_pairs(train, ours, synthetic, synthetic_labels, trained_on=True),
        *_pairs(everyone[len(train) :], others, synthetic, synthetic_labels, trained_on=False),
    )
    sizes = {"train": len(train), "holdout": len(holdout), "calibration": len(calibration), "synthetic": len(synthetic)}
    return AuditResult(settings, combine(f.verdict for f in findings), findings, sizes, attacks, ours, others, pairs)


def work_units(
    generator: Generator, *, train: list[Patient], holdout: list[Patient], calibration: list[Patient], seed: int
) -> int:
    """How many images `run_audit` will report as done, all tests together."""
    units = 2 * sum(map(len, [*train, *holdout, *calibration]))
    if isinstance(generator, Trainable):
        train = sorted(train, key=lambda p: p.key)
        units += sum(map(len, [*loss_sample(train, holdout, seed=seed), *holdout, *calibration]))
    return units


def loss_sample(train: list[Patient], holdout: list[Patient], *, seed: int) -> list[Patient]:
    """The training patients whose loss is computed: all, or a random few times as many as there are in holdout."""
    most = max(LOSS_TRAIN_PER_HOLDOUT * len(holdout), 100)
    return [train[i] for i in sorted(np.random.default_rng([seed, 0]).permutation(len(train))[:most])]


def _findings(
    attacks: dict[str, Scores], ours: Likeness, others: Likeness, settings: AuditSettings
) -> tuple[Finding, ...]:
    level = settings.alpha / (len(attacks) + 1)
    measured: list[Inference | Copies] = [
        measure_inference(name, scores, settings, level=level) for name, scores in attacks.items()
    ]
    measured.append(measure_copies(ours, others, settings, level=level))
    adjusted = holm([measurement.p_value for measurement in measured])
    return tuple(
        measurement.finding(
            p_adjusted=p,
            verdict=judge(
                p_value=measurement.p_value, p_adjusted=p, alpha=settings.alpha, within_limit=measurement.within_limit
            ),
        )
        for measurement, p in zip(measured, adjusted, strict=True)
    )


def _distances(
    train: list[Patient],
    holdout: list[Patient],
    calibration: list[Patient],
    synthetic: Float32Array,
    progress: Progress,
) -> Scores:
    groups = (train, holdout, calibration)
    return Scores(*(distance_scores(group, synthetic, progress=progress) for group in groups))


def _losses(
    train: list[Patient],
    holdout: list[Patient],
    calibration: list[Patient],
    generator: Trainable,
    seed: int,
    progress: Progress,
) -> Scores:
    groups = (train, holdout, calibration)
    return Scores(*(loss_scores(g, generator, seed=seed, draws=LOSS_DRAWS, progress=progress) for g in groups))


def _pairs(
    patients: list[Patient],
    likeness: Likeness,
    synthetic: Float32Array,
    synthetic_labels: Int64Array,
    *,
    trained_on: bool,
) -> list[Pair]:
    """The closest pairs, closest first."""
    pairs = []
    for row in np.argsort(likeness.score, kind="stable")[:PAIRS_SHOWN]:
        patient, image, match = patients[row], likeness.image[row], likeness.synthetic[row]
        labels = int(patient.labels[image]), int(synthetic_labels[match])
        pictures = patient.images[image], synthetic[match]
        pairs.append(Pair(patient.key, trained_on, *pictures, *labels, float(likeness.correlation[row])))
    return pairs


def _check(synthetic: Float32Array, synthetic_labels: Int64Array, patients: list[Patient]) -> None:
    shapes = {patient.images.shape[1:] for patient in patients} | {synthetic.shape[1:]}
    if len(synthetic) == 0 or len(synthetic) != len(synthetic_labels) or len(shapes) != 1:
        raise BadData(
            "The audit cannot compare these images.",
            "Synthetic images are missing, lack a label each, or differ in shape from the patients' images.",
            "Draw them from the generator under audit, for the study's shape.",
        )
    if not np.isfinite(synthetic).all() or not all(np.isfinite(patient.images).all() for patient in patients):
        raise BadData("The audit met a pixel that is not a finite number.", "", "Import the cohort or train again.")
