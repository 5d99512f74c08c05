"""The statistics of an audit: pure functions of scores and counts. The unit of every one of them is the patient.

One module a question: `intervals` (a rate, noised or not), `noise`, `conformal` (thresholds), `roc`, `one_run` and
`gdp` (what ε or μ is ruled out), `scan` (are training patients crowded among the closest), `decoys` (which of them
leaked), `multiple` (many tests). No maximum over thresholds anywhere without its correction.
"""

from __future__ import annotations

from manikin.privacy.audit.statistics.conformal import conformal_p_values, conformal_rank, conformal_threshold
from manikin.privacy.audit.statistics.decoys import Leaked, name_leaked
from manikin.privacy.audit.statistics.gdp import CanaryFit, canary_scores, claim_p_value, fit_canaries
from manikin.privacy.audit.statistics.intervals import (
    clopper_pearson,
    noised_count_interval,
    noised_rate_interval,
    noised_share_interval,
)
from manikin.privacy.audit.statistics.multiple import holm
from manikin.privacy.audit.statistics.noise import Noise, geometric_noise, skellam_noise
from manikin.privacy.audit.statistics.one_run import Tally, epsilon_lower_bound, guess, mu_lower_bound
from manikin.privacy.audit.statistics.roc import (
    Area,
    Rates,
    area_p_value,
    area_under_curve,
    rates_at_fpr,
    rates_at_threshold,
    roc_curve,
)

__all__ = [
    "Area",
    "CanaryFit",
    "Leaked",
    "Noise",
    "Rates",
    "Tally",
    "area_p_value",
    "area_under_curve",
    "canary_scores",
    "claim_p_value",
    "clopper_pearson",
    "conformal_p_values",
    "conformal_rank",
    "conformal_threshold",
    "epsilon_lower_bound",
    "fit_canaries",
    "geometric_noise",
    "guess",
    "holm",
    "mu_lower_bound",
    "name_leaked",
    "noised_count_interval",
    "noised_rate_interval",
    "noised_share_interval",
    "rates_at_fpr",
    "rates_at_threshold",
    "roc_curve",
    "skellam_noise",
]
