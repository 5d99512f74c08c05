"""What the plan asks of an audit, checked, and what the claimed guarantee makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from manikin.common.errors import Misconfigured
from manikin.privacy.audit.claim import mu_for_claim, tpr_on_curve


@dataclass(frozen=True)
class AuditSettings:
    """What the plan asks of the audit; nothing has a default.

    Args:
        fpr: false-positive rate at which membership is tested.
        alpha: level of the whole audit at one hospital: chance that a generator without leak fails.
        tpr_limit: largest accepted share of training patients recognised at `fpr`, and copied.
        seed: of noise draws and permutations.
        epsilon, delta: the guarantee that is claimed for one patient.
    """

    fpr: float
    alpha: float
    tpr_limit: float
    seed: int
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        numbers = (self.fpr, self.alpha, self.tpr_limit, self.epsilon, self.delta)
        in_range = (
            all(math.isfinite(number) for number in numbers)
            and all(0 < share < 1 for share in (self.fpr, self.alpha, self.tpr_limit, self.delta))
            and self.fpr < self.tpr_limit
            and self.epsilon > 0
            and self.seed >= 0
        )
        if not in_range:
            raise Misconfigured(
                "These audit settings cannot be used.",
                "fpr, alpha, tpr_limit and delta lie between 0 and 1, fpr below tpr_limit, epsilon above 0, seed ≥ 0.",
                "Correct [audit] and [privacy] in the study.",
            )

    @cached_property
    def mu(self) -> float:
        """The claim as Gaussian differential privacy."""
        return mu_for_claim(self.epsilon, self.delta)

    @property
    def allowed_tpr(self) -> float:
        """What the claim allows at `fpr`, for a Gaussian mechanism."""
        return tpr_on_curve(self.fpr, self.mu)

    @property
    def fail_limit(self) -> float:
        """The smaller of what the claim allows and what the plan accepts: significantly more is a fail."""
        return min(self.tpr_limit, self.allowed_tpr)
