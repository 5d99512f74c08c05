"""The canary: one round over the real sites, with messages as large as real ones, by a call that has no cohort.

It shows that keys, transports and deadlines work before a patient is touched. It is given a task and a key, and
nothing else: no ledger, no budget, no images.
"""

from __future__ import annotations

import numpy as np

from manikin.common.keys import SigningKey
from manikin.common.plan import Plan
from manikin.common.wire import Reply, Task


def answer_canary(task: Task, plan: Plan, key: SigningKey, *, name: str) -> Reply:
    """Zeros in the shapes that were asked with, signed.

    Raises:
        ProtocolViolation: the plan's coordinator did not sign the task.
    """
    assert plan.coordinator is not None
    task.check_signature(plan.coordinator.public_key)
    return Reply({n: np.zeros_like(a) for n, a in task.arrays.items()}, name).signed(key, task)
