"""What a reply must be to count: the arrays that its step gives, and the hospital's ledger head of this very step.

A hospital that answers otherwise is missing, like one that does not answer, and cannot stop the others. What cannot be
seen here: whether noise was added, or a sum made of patients; a hospital can lie within the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import ManikinError
from manikin.common.generators import GeneratorSpec, private_names
from manikin.common.plan import Plan
from manikin.common.wire import CHARGED, MASKED, Arrays, Reply, Task
from manikin.privacy.chain import read_head

Layout = Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype by name


def layout(arrays: Arrays) -> Layout:
    """Shape and dtype of each array."""
    return {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}


@dataclass(frozen=True)
class Check:
    """What replies to one step of a plan are held against.

    Args:
        plan: the plan.
        expected: shape and dtype of each array. Where it is a whole state, only the tensors that training may move come
            back otherwise than they were sent.
    """

    plan: Plan
    expected: Layout

    def __call__(self, name: str, task: Task, reply: Reply) -> bool:
        """Whether the reply of the hospital of this name counts."""
        return (
            layout(reply.arrays) == self.expected
            and (task.action != "train" or MASKED in self.expected or self._kept(task, reply))
            and self._head_fits(name, task, reply)
        )

    def _kept(self, task: Task, reply: Reply) -> bool:
        frozen = set(task.arrays) - moving(self.plan)
        return all(np.array_equal(_bits(task.arrays[name]), _bits(reply.arrays[name])) for name in frozen)

    def _head_fits(self, name: str, task: Task, reply: Reply) -> bool:
        keys = [party.public_key for party in self.plan.participants if party.name == name]
        if not keys:
            return True
        if task.action not in CHARGED:
            return not reply.head
        try:
            head, _ = read_head(reply.head, keys)
        except ManikinError:
            return False
        asked = (name, task.plan_digest, task.step, task.digest.hex())
        return (head.hospital, head.plan, head.step, head.request) == asked


def moving(plan: Plan) -> frozenset[str]:
    """Names of the tensors that training may move. The first call makes a generator, so it comes before any reply."""
    return _private(plan.generator_spec().to_json())


@lru_cache(maxsize=4)
def _private(spec: str) -> frozenset[str]:
    return private_names(GeneratorSpec.from_json(spec))


def _bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
