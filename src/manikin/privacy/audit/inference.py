"""From membership scores to a finding: are training patients flagged more often than the claim and the plan allow?

Two looks at the same scores share one p-value (Bonferroni): the rate of flagged patients at one threshold set on the
calibration patients, and the area under the curve, which also works where they are too few for a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from manikin.privacy.audit.claim import auc_on_curve, mu_for_rates, tpr_bound, tpr_on_curve
from manikin.privacy.audit.finding import Finding, Verdict
from manikin.privacy.audit.flagged import Design, design_needed, detectable_tpr, leak_p_value, tpr_interval
from manikin.privacy.audit.membership import Scores
from manikin.privacy.audit.settings import AuditSettings
from manikin.privacy.audit.statistics import (
    Area,
    area_p_value,
    area_under_curve,
    clopper_pearson,
    conformal_threshold,
)
from manikin.privacy.audit.wording import are, chance, counted, interval_per_hundred, per_hundred

TITLES = {"distance": "Membership, from the synthetic images", "loss": "Membership, from the generator itself"}
QUESTIONS = {
    "distance": "Can someone who holds a person's scan and the synthetic images tell that the person was trained on?",
    "loss": "Can someone who holds a person's scan and the generator tell that the person was trained on?",
}


@dataclass(frozen=True)
class Inference:
    """A membership attack, measured; `level` is its share of α when all tests are corrected for one another."""

    name: str
    settings: AuditSettings
    level: float
    design: Design
    threshold: float
    hits: int
    false_positives: int
    interval: tuple[float, float]
    area: Area
    p_value: float
    breaks_claim: bool

    @property
    def within_limit(self) -> bool:
        """Whether the upper end of the interval is within the plan's limit."""
        return self.interval[1] <= self.settings.tpr_limit

    @property
    def tpr(self) -> float:
        """Share of training patients flagged at the threshold."""
        return self.hits / max(self.design.members, 1)

    def finding(self, *, verdict: Verdict, p_adjusted: float) -> Finding:
        """The finding, in numbers and words."""
        settings, detectable = self.settings, self._detectable()
        return Finding(
            name=f"membership-{self.name}",
            title=TITLES[self.name],
            question=QUESTIONS[self.name],
            verdict=verdict,
            result=self._result(),
            reason=self._reason(verdict, p_adjusted),
            detectable=_detectable_words(detectable, settings),
            detectable_share=detectable,
            statistic_name=f"share of training patients recognised at {settings.fpr:g} false positives",
            statistic=self.tpr,
            interval=self.interval,
            limit=settings.tpr_limit,
            threshold=self.threshold if math.isfinite(self.threshold) else None,
            p_value=self.p_value,
            p_adjusted=p_adjusted,
            patients={
                "train": self.design.members,
                "holdout": self.design.holdout,
                "calibration": self.design.calibration,
            },
            details=self._details(),
        )

    def _details(self) -> dict[str, object]:
        d, alpha = self.design, self.settings.alpha
        return {
            "true_positives": self.hits,
            "false_positives": self.false_positives,
            "tpr_at_threshold_interval": list(clopper_pearson(self.hits, d.members, alpha=alpha)),
            "fpr_measured": self.false_positives / d.holdout if d.holdout else None,
            "fpr_interval": list(clopper_pearson(self.false_positives, d.holdout, alpha=alpha)),
            "auc": self.area.value,
            "auc_interval": [self.area.low, self.area.high],
            "fail_above": self.settings.fail_limit,
            "contradicts_claim": self.breaks_claim,
        }

    def _detectable(self) -> float:
        return detectable_tpr(self.design, limit=self.settings.fail_limit, alpha=self.level / 2)

    def _result(self) -> str:
        d, settings = self.design, self.settings
        area = (
            f"Area under the curve {self.area.value:.2f} ({self.area.low:.2f} to {self.area.high:.2f}; 0.5 is a coin)."
        )
        if not d.has_threshold:
            return (
                f"No threshold could be set: {counted(d.calibration, 'calibration patient')}, where "
                f"{d.calibration_needed} are needed for false alarms on {per_hundred(settings.fpr)}. {area}"
            )
        return (
            f"At a threshold set on {counted(d.calibration, 'other patient')} for {per_hundred(settings.fpr)} false "
            f"alarms, {self.hits} of {counted(d.members, 'training patient')} {are(self.hits)} flagged, and "
            f"{self.false_positives} of {counted(d.holdout, 'holdout patient')}. Recognised, with the uncertainty of "
            f"the threshold itself: {interval_per_hundred(self.interval, settings.alpha)}. {area}"
        )

    def _reason(self, verdict: Verdict, p_adjusted: float) -> str:
        settings = self.settings
        if verdict == "pass":
            return f"Even the upper end of the interval is below the plan's limit of {per_hundred(settings.tpr_limit)}."
        if verdict == "fail":
            broken = "; it contradicts the stated guarantee itself: look for an error in code or accounting"
            return (
                f"More than {per_hundred(settings.fail_limit)}, the most that claim and plan allow, or an area larger "
                f"than goes with it (p {chance(p_adjusted)}){broken if self.breaks_claim else ''}."
            )
        needed = design_needed(self.design, limit=settings.tpr_limit, alpha=settings.alpha)
        if needed is None or needed == self.design:
            return f"A leak above the plan's limit of {per_hundred(settings.tpr_limit)} cannot be ruled out."
        return (
            f"A leak above the plan's limit of {per_hundred(settings.tpr_limit)} cannot be ruled out with so few. "
            f"About {needed.members:,} training, {needed.holdout:,} holdout and {needed.calibration:,} calibration "
            "patients would be needed."
        )


def measure_inference(name: str, scores: Scores, settings: AuditSettings, *, level: float) -> Inference:
    """Threshold on calibration, rates on training and holdout patients, area against all patients not trained on."""
    design = Design(len(scores.train), len(scores.holdout), len(scores.calibration), settings.fpr)
    threshold = conformal_threshold(scores.calibration, fpr=settings.fpr)
    hits, false = int((scores.train > threshold).sum()), int((scores.holdout > threshold).sum())
    others = np.concatenate([scores.holdout, scores.calibration])
    area = area_under_curve(scores.train, others, alpha=settings.alpha)
    mu = mu_for_rates(settings.fpr, settings.fail_limit)
    by_rate = leak_p_value(design, hits, false, allowed=lambda rates: tpr_on_curve(rates, mu))
    by_area = area_p_value(area.value, auc_on_curve(mu), len(scores.train), len(others))
    bound = leak_p_value(
        design, hits, false, allowed=lambda rates: tpr_bound(rates, epsilon=settings.epsilon, delta=settings.delta)
    )
    return Inference(
        name=name,
        settings=settings,
        level=level,
        design=design,
        threshold=threshold,
        hits=hits,
        false_positives=false,
        interval=tpr_interval(design, hits, false, alpha=settings.alpha),
        area=area,
        p_value=min(1.0, 2 * min(by_rate, by_area)),
        breaks_claim=bound < level,
    )


def _detectable_words(share: float, settings: AuditSettings) -> str:
    if share >= 1:
        return "Nothing at this threshold: with so few patients only a gross leak shows, in the area under the curve."
    return (
        f"A generator that gives away {per_hundred(settings.tpr_limit)} training patients would have passed in at most "
        f"{per_hundred(settings.alpha / 2)} audits; one that gives away {per_hundred(share)} would have failed four "
        "times out of five."
    )
