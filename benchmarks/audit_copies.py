"""Cases of the audit benchmark about copies: honest and leaky generators of made-up embeddings, patient by patient."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
from audit_case import Case, Measured, share
from numpy.typing import NDArray
from scipy.stats import binomtest

from manikin.common.generators import GeneratorSpec
from manikin.common.images import Patient
from manikin.privacy.audit import AuditSettings, run_audit
from manikin.privacy.audit.neighbours import nearest, typical_distance
from manikin.privacy.audit.statistics.conformal import conformal_threshold
from manikin.privacy.audit.statistics.decoys import fewest_named, name_leaked
from manikin.privacy.audit.statistics.multiple import holm
from manikin.privacy.audit.statistics.scan import detectable_copies, lowest_by_patient, scan

Vectors = NDArray[np.float32]
Array = NDArray[np.float64]
ALPHA, DIMENSIONS, SYNTHETIC, COPY_NOISE, RANK = 0.05, 32, 1000, 0.1, 5


def fresh(rng: np.random.Generator, count: int) -> Vectors:
    """Patients, or images of an honest generator."""
    return rng.normal(size=(count, DIMENSIONS)).astype(np.float32)


def collapsed(rng: np.random.Generator, modes: int) -> Vectors:
    """An honest generator that knows a few made-up patients only."""
    return fresh(rng, modes)[rng.integers(modes, size=SYNTHETIC)] + np.float32(COPY_NOISE) * fresh(rng, SYNTHETIC)


def unit(vectors: Vectors) -> Vectors:
    """The vectors at length one, whose distances are those of correlation."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def leaky(rng: np.random.Generator, victims: Vectors, chance: float) -> Vectors:
    """An honest generator that now and then repeats a victim, with a little noise."""
    images = fresh(rng, SYNTHETIC)
    copied = rng.random(SYNTHETIC) < chance
    whom = rng.integers(len(victims), size=int(copied.sum()))
    images[copied] = victims[whom] + np.float32(COPY_NOISE) * fresh(rng, len(whom))
    return images


def nearness(real: Vectors, owners: NDArray[np.int64], synthetic: Vectors) -> Array:
    """Distance to the nearest synthetic image over that to the fifth nearest of other patients; one an image."""
    _, distance = nearest(real, synthetic)
    return distance / typical_distance(real, owners, real, owners, rank=RANK)


def split_scores(train: Vectors, holdout: Vectors, synthetic: Vectors) -> tuple[Array, Array]:
    """The same for patients with one image each, by group."""
    real = np.concatenate([train, holdout])
    scores = nearness(real, np.arange(len(real)), synthetic)
    return scores[: len(train)], scores[len(train) :]


def null_generator(quick: bool) -> tuple[bool, Measured]:
    """8: fresh images, 500 + 500 patients."""
    rng, repeats = np.random.default_rng(8), 400 if quick else 1000
    alarms = named = 0
    for _ in range(repeats):
        ours, others = split_scores(fresh(rng, 500), fresh(rng, 500), fresh(rng, SYNTHETIC))
        alarms += scan(ours, others, rng=rng).p_value <= ALPHA
        named += len(name_leaked(ours, others, rate=0.1).named)
    reached = {"false_alarms": share(alarms, repeats), "named_on_average": share(named, repeats), "audits": repeats}
    return alarms <= 0.075 * repeats and named <= 0.1 * repeats, reached


def mode_collapse(quick: bool) -> tuple[bool, Measured]:
    """9: fifteen modes; and the popular test beside it."""
    rng, repeats = np.random.default_rng(9), 400 if quick else 1000
    alarms = popular = 0
    for _ in range(repeats):
        train, holdout, synthetic = fresh(rng, 500), fresh(rng, 500), collapsed(rng, 15)
        ours, others = split_scores(train, holdout, synthetic)
        alarms += scan(ours, others, rng=rng).p_value <= ALPHA
        closer = int((nearest(synthetic, np.concatenate([train, holdout]))[0] < 500).sum())
        popular += binomtest(closer, SYNTHETIC, 0.5, alternative="greater").pvalue <= ALPHA
    reached = {"false_alarms": share(alarms, repeats), "share_closer_to_train": share(popular, repeats)}
    return alarms <= 0.075 * repeats, reached | {"audits": repeats}


def copies(quick: bool) -> tuple[bool, Measured]:
    """10: a share of the images are near-copies of training patients."""
    rng, repeats = np.random.default_rng(10), 200 if quick else 400
    reached: Measured = {}
    for chance in (0.01, 0.02, 0.05):
        found, names, wrong = 0, [], []
        for _ in range(repeats):
            train = fresh(rng, 500)
            synthetic = leaky(rng, train, chance)
            ours, others = split_scores(train, fresh(rng, 500), synthetic)
            named = name_leaked(ours, others, rate=0.1).named
            found += scan(ours, others, rng=rng).p_value <= ALPHA
            names.append(len(named))
            copied = nearest(train[named], synthetic)[1] < 3 * COPY_NOISE * np.sqrt(DIMENSIONS) if len(named) else []
            wrong.append(1 - float(np.mean(copied)) if len(named) else 0.0)
        reached[f"p={chance:g}"] = {
            "found": share(found, repeats),
            "named": round(float(np.mean(names)), 1),
            "wrong_share": round(float(np.mean(wrong)), 4),
        }
    low, middle, high = reached.values()
    held = low["found"] >= 0.75 and middle["found"] >= 0.98 and high["found"] == 1
    return held and high["named"] >= 45 and high["wrong_share"] <= 0.12, reached | {"audits": repeats}


def below_detection(quick: bool) -> tuple[bool, Measured]:
    """11: five copies among 500 patients are fewer than the audit says it could find."""
    rng, repeats = np.random.default_rng(11), 100 if quick else 400
    fewest, nameable = detectable_copies(500, 500, alpha=ALPHA, power=0.8), fewest_named(500, 500, rate=0.1)
    found = 0
    for _ in range(repeats):
        train = fresh(rng, 500)
        ours, others = split_scores(train, fresh(rng, 500), leaky(rng, train, 0.005))
        found += scan(ours, others, rng=rng).p_value <= ALPHA
    reached = {"fewest_found": fewest, "fewest_named": nameable, "found": share(found, repeats), "audits": repeats}
    return fewest is not None and fewest > 5 and nameable is not None and nameable > 5, reached


def mismatched_bases(quick: bool) -> tuple[bool, Measured]:
    """13: the threshold from others' likeness to the same training images, and from likeness to fewer images."""
    rng, repeats = np.random.default_rng(13), 100 if quick else 400
    matched, mismatched = [], []
    for _ in range(repeats):
        train, validation, synthetic = (unit(fresh(rng, count)) for count in (1000, 100, 500))
        likeness = -nearest(synthetic, train)[1]
        matched.append((likeness > conformal_threshold(-nearest(validation, train)[1], fpr=0.05)).mean())
        mismatched.append((likeness > np.quantile(-nearest(train, validation)[1], 0.95)).mean())
    reached = {"false_share": round(float(np.mean(matched)), 4), "mismatched": round(float(np.mean(mismatched)), 4)}
    return 0.03 <= reached["false_share"] <= 0.07, reached | {"audits": repeats}


def leak_of_the_holdout(quick: bool) -> tuple[bool, Measured]:
    """16: a generator that repeats the holdout must not be called a leak of the training patients."""
    rng, repeats = np.random.default_rng(16), 400 if quick else 1000
    alarms = 0
    for _ in range(repeats):
        holdout = fresh(rng, 500)
        ours, others = split_scores(fresh(rng, 500), holdout, leaky(rng, holdout, 0.05))
        alarms += scan(ours, others, rng=rng).p_value <= ALPHA
    return alarms <= 0.075 * repeats, {"false_alarms": share(alarms, repeats), "audits": repeats}


def several_images(quick: bool) -> tuple[bool, Measured]:
    """17: five images a patient that resemble each other; and, as a mutant, images as the unit."""
    rng, repeats, patients, each = np.random.default_rng(17), 400 if quick else 1000, 120, 5
    owners = np.repeat(np.arange(patients), each)
    by_patient = by_image = 0
    for _ in range(repeats):
        real = fresh(rng, patients)[owners] + np.float32(0.2) * fresh(rng, patients * each)
        scores = nearness(real, owners, fresh(rng, SYNTHETIC))
        lowest = lowest_by_patient(scores, owners, patients)
        by_patient += scan(lowest[: patients // 2], lowest[patients // 2 :], rng=rng).p_value <= ALPHA
        half = patients // 2 * each
        by_image += scan(scores[:half], scores[half:], rng=rng).p_value <= ALPHA
    reached = {"by_patient": share(by_patient, repeats), "by_image": share(by_image, repeats), "audits": repeats}
    return by_patient <= 0.075 * repeats and by_image >= 0.15 * repeats, reached


def one_hospital_leaks(quick: bool) -> tuple[bool, Measured]:
    """18: five hospitals of 100 + 100 patients; the generator repeats patients of the first."""
    rng, repeats = np.random.default_rng(18), 100 if quick else 400
    right = blamed = 0
    for _ in range(repeats):
        trains = [fresh(rng, 100) for _hospital in range(5)]
        synthetic = leaky(rng, trains[0], 0.05)
        p_values = holm([scan(*split_scores(t, fresh(rng, 100), synthetic), rng=rng).p_value for t in trains])
        right += p_values[0] <= ALPHA
        blamed += min(p_values[1:]) <= ALPHA
    reached = {"found_and_named": share(right, repeats), "another_blamed": share(blamed, repeats), "audits": repeats}
    return right >= 0.9 * repeats and blamed <= 0.075 * repeats, reached


@dataclass
class Silent:
    """A generator of which only samples are known."""

    spec: GeneratorSpec = field(default_factory=lambda: GeneratorSpec("silent", 1, (8, 8), ("a",)))

    def state(self) -> dict[str, object]:
        return {}

    def load_state(self, state: object) -> None: ...

    def sample(self, conditions: object, *, generator: object) -> None: ...


def same_bytes(_: bool) -> tuple[bool, Measured]:
    """21: the JSON of an audit, twice, the second time with the patients in another order; and of another seed."""
    rng = np.random.default_rng(21)
    images = rng.uniform(-1, 1, size=(180, 1, 1, 8, 8)).astype(np.float32)
    patients = [Patient(f"{i:04x}", image, np.zeros(1, np.int64)) for i, image in enumerate(images)]
    synthetic = rng.uniform(-1, 1, size=(60, 1, 8, 8)).astype(np.float32)

    def audit(order: int, seed: int) -> bytes:
        groups = [patients[:60], patients[60:120], patients[120:]]
        train, holdout, calibration = (
            [group[i] for i in np.random.default_rng(order).permutation(60)] for group in groups
        )
        settings = AuditSettings(fpr=0.05, alpha=ALPHA, tpr_limit=0.2, seed=seed, epsilon=3.0, delta=1e-5)
        result = run_audit(
            Silent(),  # type: ignore[arg-type]
            synthetic,
            np.zeros(60, np.int64),
            train=train,
            holdout=holdout,
            calibration=calibration,
            settings=settings,
        )
        return json.dumps(result.to_dict(), sort_keys=True).encode()

    reached = {"same_seed_same_bytes": audit(0, 1) == audit(1, 1), "seed_is_part_of_it": audit(0, 1) != audit(0, 2)}
    return all(reached.values()), reached


CASES = (
    Case(8, "copies, honest generator", "false alarms at most 7.5 %; at most 0.1 patients named", null_generator),
    Case(9, "copies, honest but of fifteen modes", "false alarms at most 7.5 %", mode_collapse),
    Case(
        10,
        "copies of 1, 2, 5 % of the images",
        "found in at least .75, .98, 1; at 5 % 45 named, at most 12 % of them wrongly",
        copies,
    ),
    Case(11, "five copies", "said to be below the detection limit", below_detection),
    Case(11, "exact duplicates on images", "all listed, with any number of them"),
    Case(12, "transformed copies on images", "flip, rotation, shift, contrast, JPEG each found in at least .95"),
    Case(13, "threshold from ten times fewer images", "false share 5 % ± 2 by the matched rule", mismatched_bases),
    Case(15, "shifted outsiders", "the blind baseline vetoes at least .95; never a leak"),
    Case(16, "a generator trained on the holdout", "false alarms at most 7.5 %", leak_of_the_holdout),
    Case(17, "five images a patient", "at most 7.5 % by patient; by image at least 15 %", several_images),
    Case(18, "one leaking hospital of five", "found and named in at least .9", one_hospital_leaks),
    Case(21, "the same audit twice", "the same bytes", same_bytes),
    Case(21, "a byte of the signed report changed", "verification fails"),
    Case(22, "over-trained generators with and without DP", "without: fail; with ε = 2: no fail in 9 of 10 seeds"),
)
