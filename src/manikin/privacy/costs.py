"""What a step costs a patient, of either kind, and what several cost together.

A cost is a Gaussian sum that one hospital noises by itself (`accounting.Mechanism`) or a Skellam sum of which each
hospital noises a share (`skellam_accounting.Skellam`). A plan has one kind only.

>>> round(total([Skellam(2.5, size=100)], delta=1e-5).value, 2), list(total([Mechanism(2.5)], delta=1e-5).accountants)
(1.69, ['pld', 'opacus'])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from manikin.common.errors import Misconfigured
from manikin.privacy import accounting, skellam_accounting
from manikin.privacy.accounting import Mechanism
from manikin.privacy.skellam_accounting import Skellam

Cost = Mechanism | Skellam


@dataclass(frozen=True)
class Total:
    """ε of several costs together.

    Args:
        value: the largest that an accountant found: the one to report.
        accountants: ε by accountant: "pld" and "opacus" for Gaussian sums, "renyi" for Skellam sums.
    """

    value: float
    accountants: Mapping[str, float]


def total(costs: Sequence[Cost], *, delta: float, multiplicity: int = 1) -> Total:
    """ε of all costs together, for one patient added or removed.

    Args:
        costs: of one kind.
        delta: the δ that belongs to it.
        multiplicity: number of hospitals that may hold the same patient.

    Raises:
        Misconfigured: δ or the multiplicity is out of range, or the kinds are mixed.
    """
    skellam = [cost for cost in costs if isinstance(cost, Skellam)]
    gaussian = [cost for cost in costs if isinstance(cost, Mechanism)]
    if skellam and gaussian:
        raise Misconfigured("Gaussian and Skellam sums are not composed in one plan.")
    if skellam:
        value = skellam_accounting.epsilon(skellam, delta=delta, multiplicity=multiplicity).value
        return Total(value, {"renyi": value})
    spent = accounting.epsilon(gaussian, delta=delta, multiplicity=multiplicity)
    return Total(spent.value, {"pld": spent.pld, "opacus": spent.opacus})


def describe(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """As JSON values, for plans and privacy cards."""
    return [
        {"kind": "skellam" if isinstance(cost, Skellam) else "gaussian", "sampling": "poisson", **asdict(cost)}
        for cost in costs
    ]


def read(fields: Mapping[str, Any]) -> Cost:
    """A cost from the fields of its class, as the ledger keeps them.

    Raises:
        TypeError, ValueError: a field is missing, unknown or of another type.
        Misconfigured: a number is out of range.
    """
    return Skellam(**fields) if "size" in fields else Mechanism(**fields)
