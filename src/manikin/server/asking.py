"""Asking hospitals one step of a plan: who answered soundly, who is missing and why, and what their ledgers signed.

Answers are taken one at a time, as they come, and dropped once they are folded in. A hospital that answers anything but
what the step gives is missing, and cannot stop the others; a quorum, or nothing, goes on.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manikin.common.errors import ProtocolViolation, TransportFailure
from manikin.common.faults import reach
from manikin.common.plan import Plan, Step
from manikin.common.study import TrainStage
from manikin.common.wire import CHARGED, Arrays, Reply, Task
from manikin.server.channel import Channel, Missing
from manikin.server.checkpoints import Checkpoint
from manikin.server.offers import Offers
from manikin.server.replies import Check, Layout

Advance = Callable[[int], None]
Fold = Callable[
    [str, Arrays], None
]  # takes one hospital's arrays; refuses by ProtocolViolation, with nothing folded in
Phase = Callable[[str, int | None], contextlib.AbstractContextManager[Advance]]
KeepHeads = Callable[[Mapping[str, str]], None]


@contextlib.contextmanager
def silent(title: str, total: int | None) -> Iterator[Advance]:
    """A phase that shows nothing."""
    del title, total
    yield lambda _: None


def nothing(name: str, arrays: Arrays) -> None:
    """The fold of a step whose replies carry no arrays, or none that count."""
    del name, arrays


@dataclass(frozen=True)
class Asking:
    """How the hospitals of one run are asked.

    Args:
        plan: the plan.
        channel: the hospitals.
        checkpoint: takes attendance, heads and offers; the caller saves it.
        phase: shows progress.
        keep_heads: told of each charged step's ledger heads, by hospital.
    """

    plan: Plan
    channel: Channel
    checkpoint: Checkpoint
    phase: Phase = silent
    keep_heads: KeepHeads = lambda _: None

    def ask(
        self,
        step: Step,
        *,
        parameters: Mapping[str, Any] | None = None,
        arrays: Arrays | None = None,
        expected: Layout | None = None,
        fold: Fold = nothing,
        names: Collection[str] | None = None,
        quorum: int | None = None,
        deadline_s: float | None = None,
    ) -> list[str]:
        """Ask hospitals one step; the names of those that answered, in the channel's order.

        Args:
            step: of the plan.
            parameters: of the task; the ledger heads of all charged steps so far if None.
            arrays: of the task.
            expected: shape and dtype of each array of a reply; none if None.
            fold: takes the arrays of each sound reply as it comes; the reply is dropped after it. Whether a quorum
                answered is known only at the end, so what was folded counts once `ask` has returned.
            names: whom to ask; everyone if None.
            quorum: how many must answer; the plan's if None.
            deadline_s: how long they have; the plan's if None.

        Raises:
            TransportFailure: fewer than the quorum answered; names each that did not, and the code of its reason.
        """
        content = self.standing() if parameters is None else parameters
        task = Task(self.plan.digest, step.index, step.action, content, arrays or {})
        federation = self.plan.study.federation
        names = [name for name in self.channel.names if names is None or name in names]
        quorum = federation.quorum if quorum is None else quorum
        seconds = federation.round_deadline_s if deadline_s is None else deadline_s
        outcomes: dict[str, str | Missing] = {}
        with self.phase(self._title(step), len(names)) as advance:
            reach("coordinator: step to be asked")
            for name, answer in self.channel.ask(dict.fromkeys(names, task), deadline_s=seconds):
                outcomes[name] = self._take(name, task, answer, expected or {}, fold)
                del answer  # before the next one comes
                advance(1)
            reach("coordinator: step answered")
        found = [(name, outcomes[name]) for name in names]  # in the same order whoever was first
        missing = {name: outcome.code for name, outcome in found if isinstance(outcome, Missing)}
        heads = {name: outcome for name, outcome in found if isinstance(outcome, str)}
        if missing:
            self.checkpoint.attendance[str(step.index)] = missing
        if len(heads) < quorum:
            raise TransportFailure(
                f"{len(heads)} of {len(names)} hospitals answered step {step.index} ({step.action}), "
                f"and the quorum is {quorum}.",
                "Missing: " + ", ".join(f"{name} ({code})" for name, code in missing.items()) + ".",
                "Mend the cause at those hospitals, then run the same command with --resume.",
            )
        if step.action in CHARGED:
            kept = {name: head for name, head in heads.items() if head}
            self.checkpoint.heads[str(step.index)] = kept
            self.checkpoint.latest_heads |= kept
            self.keep_heads(kept)
        return list(heads)

    def standing(self) -> dict[str, Any]:
        """The parameters of every task but an opening: the ledger heads of all charged steps so far."""
        return {"heads": copy.deepcopy(self.checkpoint.heads)}

    def _take(self, name: str, task: Task, answer: Reply | Missing, expected: Layout, fold: Fold) -> str | Missing:
        """Fold one answer in, if it is sound; its ledger head, or why the hospital is missing."""
        if isinstance(answer, Missing):
            return answer
        if not Check(self.plan, expected)(name, task, answer):
            return Missing("malformed")
        try:
            offers = Offers(self.plan, self.checkpoint)
            offers.check(name, task, answer)
            fold(name, answer.arrays)
            offers.keep(name, task, answer)
        except ProtocolViolation:
            return Missing("malformed")
        return answer.head

    def _title(self, step: Step) -> str:
        if step.action == "train":
            stage = self.plan.study.stage[step.stage]
            assert isinstance(stage, TrainStage)
            return f"Hospitals train privately, round {step.round + 1} of {stage.rounds}"
        return {
            "open": "Hospitals check the plan and load their cohorts",
            "release": "Hospitals release one noisy sum each",
            "audit": "Hospitals audit the generator",
            "canary": "Hospitals answer a canary",
        }[step.action]


def to_numpy(state: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """A state as it travels."""
    return {name: tensor.detach().to(torch.device("cpu")).contiguous().numpy() for name, tensor in state.items()}
