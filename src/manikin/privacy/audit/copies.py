"""From likeness to a finding: are training patients crowded among those that a synthetic image resembles most?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manikin.privacy.audit.finding import Finding, Verdict
from manikin.privacy.audit.flagged import POWER
from manikin.privacy.audit.reidentification import NEAR_COPY_CORRELATION, Likeness
from manikin.privacy.audit.settings import AuditSettings
from manikin.privacy.audit.statistics.scan import Scan, copies_pass, detectable_copies, scan
from manikin.privacy.audit.wording import are, chance, counted, number, per_hundred

CLEARLY_MORE = 2
LARGEST_ENLARGEMENT = 1000


@dataclass(frozen=True)
class Copies:
    """The re-identification test, measured; `level` is its share of α when all tests are corrected for one another."""

    settings: AuditSettings
    level: float
    members: int
    outsiders: int
    scan: Scan
    near_copies: int
    near_copies_of_others: int
    fewest: int | None

    @property
    def p_value(self) -> float:
        """Of the permutation test."""
        return self.scan.p_value

    @property
    def within_limit(self) -> bool:
        """Whether copies of the plan's limit would have been found, and there is no single pair to look at."""
        strong = self.fewest is not None and self.fewest <= self.settings.tpr_limit * self.members
        return strong and not self.must_be_looked_at

    @property
    def must_be_looked_at(self) -> bool:
        """Whether nearly equal pairs are clearly more frequent for training patients, significant or not.

        One copy of one patient is a breach that no test of ranks can prove; a person who looks at the pair can.
        """
        by_chance = self.near_copies_of_others * self.members / max(self.outsiders, 1)
        return self.near_copies > CLEARLY_MORE * by_chance

    def finding(self, *, verdict: Verdict, p_adjusted: float) -> Finding:
        """The finding, in numbers and words."""
        return Finding(
            name="re-identification",
            title="Copies and re-identification",
            question="Are synthetic images so close to patients who were trained on that they could be traced back?",
            verdict=verdict,
            result=self._result(),
            reason=self._reason(verdict, p_adjusted),
            detectable=self._detectable_words(),
            detectable_share=self.fewest / self.members if self.fewest else 1.0,
            statistic_name="smallest hypergeometric tail over the ranks",
            statistic=self.scan.statistic,
            interval=None,
            limit=None,
            threshold=None,
            p_value=self.p_value,
            p_adjusted=p_adjusted,
            patients={"train": self.members, "others": self.outsiders},
            details={
                "rank": self.scan.rank,
                "training_patients_in_rank": self.scan.members,
                "expected_in_rank": self.scan.expected,
                "near_copies": self.near_copies,
                "near_copies_of_others": self.near_copies_of_others,
                "fewest_detectable": self.fewest,
            },
        )

    def _result(self) -> str:
        s = self.scan
        if not s.rank:
            return f"Not computed: {counted(self.members, 'training patient')} and {self.outsiders} others are too few."
        return (
            f"Among the {s.rank} patients most like a synthetic image {s.members} were trained on, where chance alone "
            f"gives {number(s.expected)}. Shuffling who was trained on gives as many with probability "
            f"{chance(s.p_value)}, all ranks considered. Nearly equal to a synthetic image (correlation at least "
            f"{NEAR_COPY_CORRELATION}): {self.near_copies} trained on, {self.near_copies_of_others} others."
        )

    def _reason(self, verdict: Verdict, p_adjusted: float) -> str:
        limit = per_hundred(self.settings.tpr_limit)
        if verdict == "fail":
            return f"Synthetic images resemble training patients more than other patients (p {chance(p_adjusted)})."
        if verdict == "pass":
            return (
                f"Training patients are not closer than others, and copies of {limit} of them would have been noticed."
            )
        if self.must_be_looked_at:
            return (
                f"{counted(self.near_copies, 'training patient')} {are(self.near_copies)} nearly equal to a synthetic "
                f"image (of the others: {self.near_copies_of_others}): a person must look at the pairs."
            )
        if self.p_value < self.settings.alpha:
            return "Training patients are somewhat closer, but not clearly so once all tests are considered."
        needed = self._members_needed()
        more = f" About {needed:,} training patients, and others in proportion, would be needed." if needed else ""
        return f"Copies of {limit} training patients could have gone unnoticed with so few.{more}"

    def _detectable_words(self) -> str:
        if self.fewest is None:
            return "Nothing: with so few patients not even copies of all of them would have been significant."
        return (
            f"Copies of {counted(self.fewest, 'training patient')} ({per_hundred(self.fewest / self.members)}) "
            "would have failed four times out of five."
        )

    def _members_needed(self) -> int | None:
        if not self.members or not self.outsiders:
            return None
        factor = 1.0
        while factor < LARGEST_ENLARGEMENT:
            members, others = math.ceil(self.members * factor), math.ceil(self.outsiders * factor)
            if copies_pass(members, others, share=self.settings.tpr_limit, alpha=self.level, power=POWER):
                return members
            factor *= 1.25
        return None


def measure_copies(ours: Likeness, others: Likeness, settings: AuditSettings, *, level: float) -> Copies:
    """Scan of training patients' likeness against that of patients not trained on."""
    members, outsiders = len(ours.score), len(others.score)
    rng = np.random.default_rng([settings.seed, 2])
    found = scan(ours.score, others.score, rng=rng)
    near, near_others = (int((group.correlation >= NEAR_COPY_CORRELATION).sum()) for group in (ours, others))
    fewest = detectable_copies(members, outsiders, alpha=level, power=POWER)
    return Copies(settings, level, members, outsiders, found, near, near_others, fewest)
