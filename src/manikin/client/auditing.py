"""The audit at home: the generator that will be released, held against this hospital's patients.

The page is the hospital's own. Nothing of what was found leaves, and a plan gets one request: another one could be
built to ask about a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manikin.common import generators
from manikin.common.errors import ProtocolViolation
from manikin.common.files import write_atomically
from manikin.common.generators import Generator
from manikin.common.images import Patient
from manikin.common.plan import Plan
from manikin.common.wire import Task
from manikin.privacy.audit import AuditSettings, run_audit
from manikin.privacy.audit.report import ReportContext, write_report


@dataclass(frozen=True)
class Exhibit:
    """What an audit looks at: a generator, and synthetic images with their labels."""

    generator: Generator
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def read_exhibit(plan: Plan, task: Task) -> Exhibit:
    """What a task brings to be audited; looks at the task alone.

    Raises:
        ProtocolViolation: it brings no state of the plan's generator, or no synthetic images of the study.
    """
    arrays = dict(task.arrays)
    images, labels = _synthetic(plan, arrays)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Exhibit(generators.load(plan.generator_spec(), state), images, labels)


def pin_request(file: Path, task: Task) -> None:
    """Write down which request a plan was audited with.

    Raises:
        ProtocolViolation: it was another one.
    """
    if file.exists() and file.read_bytes() != task.digest:
        raise ProtocolViolation(
            "An audit was refused.", "This plan was audited with another request.", "Ask the same again."
        )
    write_atomically(file, task.digest, mode=0o600)


def audit_at_home(
    folder: Path,
    plan: Plan,
    exhibit: Exhibit,
    patients: Mapping[str, list[Patient]],
    *,
    hospital: str,
    embedded: bool,
) -> None:
    """Run the audit and write its page.

    Args:
        folder: gets the page.
        plan: says at which rates, and what was promised.
        exhibit: what is audited.
        patients: "train", "holdout" and "calibration".
        hospital: whose page it is.
        embedded: all hospitals run on one machine; the page says so.
    """
    result = run_audit(
        exhibit.generator,
        exhibit.images,
        exhibit.labels,
        train=patients["train"],
        holdout=patients["holdout"],
        calibration=patients["calibration"],
        settings=_settings(plan),
    )
    context = ReportContext(
        hospital=hospital,
        study=plan.study.name,
        plan=plan.digest,
        unit=plan.study.privacy.unit,
        labels=plan.study.data.labels,
        embedded=embedded,
        show_pairs=True,
    )
    write_report(folder, result, context=context)


def _settings(plan: Plan) -> AuditSettings:
    audit, privacy = plan.study.audit, plan.study.privacy
    return AuditSettings(
        fpr=audit.fpr,
        alpha=audit.alpha / plan.study.federation.quorum,  # every hospital tests, and one fail is a fail
        tpr_limit=audit.tpr_limit,
        seed=int(plan.digest[:8], 16),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
    )


def _synthetic(plan: Plan, arrays: dict[str, Any]) -> tuple[Any, Any]:
    """The synthetic images and labels of an audit, taken out of its arrays."""
    data = plan.study.data
    images, labels = arrays.pop("synthetic.images", None), arrays.pop("synthetic.labels", None)
    sound = (
        images is not None
        and labels is not None
        and images.dtype == np.float32
        and images.shape == (len(labels), len(data.channels), *data.shape)
        and len(labels) == plan.study.audit.synthetic
        and labels.dtype == np.int64
        and labels.ndim == 1
        and labels.min() >= 0
        and labels.max() < len(data.labels)
        and float(np.abs(images).max()) <= 1
    )
    if not sound:
        raise ProtocolViolation(
            "An audit was refused.", "It brought no synthetic images of the study.", "Ask it again."
        )
    return images, labels
