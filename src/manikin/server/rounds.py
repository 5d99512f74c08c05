"""The round loop: stage by stage, with a stated quorum, a checkpoint after each move, and resumption.

A *move* is pre-training, one release, or one round of training. Moves are deterministic given the plan and the
hospitals' answers, and hospitals answer a step with the same bytes again; so a run that was killed and resumed
ends with the same generator as one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manikin.common import generators
from manikin.common.errors import ManikinError, ProtocolViolation, TransportFailure
from manikin.common.faults import reach
from manikin.common.generators import Generator, Releasable
from manikin.common.images import Patient
from manikin.common.plan import Plan, Step
from manikin.common.study import PretrainStage, ReleaseStage, TrainStage
from manikin.common.wire import CHARGED, Arrays, Reply, Task
from manikin.privacy.chain import read_head
from manikin.privacy.mechanisms import public_grid
from manikin.server.aggregation import ReleaseSum, StateMean
from manikin.server.channel import Channel, Missing
from manikin.server.checkpoints import Checkpoint, Checkpoints
from manikin.server.pretraining import adapt, pretrain, prior_images

CANARY_STEP = 0
Layout = Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype by name
Advance = Callable[[int], None]
Fold = Callable[
    [str, Arrays], None
]  # takes one hospital's arrays; refuses by ProtocolViolation, with nothing folded in
Phase = Callable[[str, int | None], contextlib.AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(title: str, total: int | None) -> Iterator[Advance]:
    """A phase that shows nothing."""
    del title, total
    yield lambda _: None


def nothing(name: str, arrays: Arrays) -> None:
    """The fold of a step whose replies carry no arrays, or none that count."""
    del name, arrays


@dataclass(frozen=True)
class Move:
    """One entry of the loop: a stage, and for a stage that asks hospitals, the step."""

    stage: int
    step: Step | None


class Rounds:
    """One run of a plan over a channel.

    Args:
        plan: the plan.
        channel: the hospitals.
        checkpoints: where the run stands.
        phase: shows progress.
        keep_heads: told of each charged step's ledger heads, by hospital.
    """

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        checkpoints: Checkpoints,
        *,
        phase: Phase = silent,
        keep_heads: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> None:
        self.keep_heads = keep_heads
        self.plan, self.channel, self.checkpoints, self.phase = plan, channel, checkpoints, phase
        self.checkpoint = checkpoints.load() or Checkpoint()
        self._generator: Generator | None = None

    @property
    def generator(self) -> Generator:
        """The generator as it stands, made from the state; while hospitals train there is only the state."""
        if self._generator is None:
            self._generator = generators.create(self.plan.generator_spec())
            if self.checkpoint.state:
                self._generator.load_state(self.checkpoint.state)
        return self._generator

    def run(self) -> Generator:
        """All moves that are not done yet; the generator after the last.

        Raises:
            TransportFailure: fewer hospitals than the quorum answered; what is done stands in the checkpoint.
        """
        self.ask(
            self.plan.steps()[0],
            parameters={"plan": self.plan.to_dict(), "heads": {"latest": dict(self.checkpoint.latest_heads)}},
        )
        for number, move in enumerate(self.moves()):
            if number < self.checkpoint.done:
                continue
            started = time.monotonic()
            kind = self._do(move)
            reach("coordinator: move done")
            spent = self.checkpoint.seconds
            spent[kind] = spent.get(kind, 0.0) + time.monotonic() - started
            self.checkpoint.done = number + 1
            if self._generator is not None:
                self.checkpoint.state = self._generator.state()
            self.checkpoints.save(self.checkpoint)
            reach("coordinator: checkpoint saved")
        self._complete()
        return self.generator

    def canary(self) -> None:
        """One round over the real sites with messages as large as real ones, and no patient in it.

        Raises:
            TransportFailure: fewer hospitals than the quorum answered.
        """
        self.ask(self.plan.steps()[0], parameters={"plan": self.plan.to_dict(), "heads": {}})
        state = to_numpy(self.generator.state())
        self.ask(Step(CANARY_STEP, "canary", -1), arrays=state, expected=layout(state))

    def _complete(self) -> None:
        """What a family does once after its last move: post-processing, seeded by the plan."""
        match = getattr(self.generator, "match_means", None)
        if match is not None:
            with self.phase("Matching the generator to the release", None):
                match(generator=torch.Generator().manual_seed(int(self.plan.digest[:12], 16)))

    def moves(self) -> list[Move]:
        """The plan as a list of moves, in order."""
        asked: dict[int, list[Step]] = {}
        for step in self.plan.steps():
            asked.setdefault(step.stage, []).append(step)
        return [Move(n, step) for n in range(len(self.plan.study.stage)) for step in asked.get(n, [None])]

    def _do(self, move: Move) -> str:
        stage = self.plan.study.stage[move.stage]
        if isinstance(stage, PretrainStage):
            self._pretrain(stage)
        elif isinstance(stage, ReleaseStage):
            self._release(stage, move)
        else:
            self._train(move)
        return stage.kind

    @cached_property
    def prior(self) -> Tensor | None:
        """Simulated images of the plan's pre-training, made again from its seed; None without such a stage."""
        stages = [s for s in self.plan.study.stage if isinstance(s, PretrainStage)]
        if not stages:
            return None
        with self.phase("Simulating scans", stages[0].count) as advance:
            return prior_images(stages[0], self.plan.study.data, progress=advance)

    def _pretrain(self, stage: PretrainStage) -> None:
        assert self.prior is not None
        with self.phase("Learning anatomy from simulated scans", stage.steps) as advance:
            pretrain(self.generator, self.prior, stage, progress=advance)

    def _release(self, stage: ReleaseStage, move: Move) -> None:
        spec = self.plan.release_spec(stage)
        own = spec == self.generator.spec
        family = self.generator if own else generators.create(spec)
        if self.prior is not None and hasattr(family, "set_prior"):
            family.set_prior(self.prior)
        assert isinstance(family, Releasable)
        assert move.step is not None
        blank = Patient("", np.zeros((1, family.spec.channels, *family.spec.shape), np.float32), np.zeros(1, np.int64))
        noise = self.plan.noise_multipliers[move.stage]
        assert noise is not None
        shape, noise_std = family.statistic(blank).shape, noise * family.norm_bound
        total = ReleaseSum(shape[0], grid=public_grid(noise_std), hospitals=len(self.channel.names))
        arrays, expected = to_numpy(family.state()), {"sum": (shape, "float64")}
        answered = self.ask(move.step, arrays=arrays, expected=expected, fold=total.add)
        family.fit(total.total, noise_std=noise_std * len(answered) ** 0.5)
        if not own:
            with self.phase("Carrying the release into the generator", None) as advance:
                adapt(self.generator, family, self.prior, progress=advance)

    def _train(self, move: Move) -> None:
        assert move.step is not None
        if not self.checkpoint.state:
            self.checkpoint.state = self.generator.state()
        self._generator = None
        state = to_numpy(self.checkpoint.state)
        with StateMean(state, self._weights(), self.checkpoints.file.parent) as mean:
            self.ask(move.step, arrays=state, expected=layout(state), fold=mean.add)
            self.checkpoint.state = mean.result()

    def _weights(self) -> dict[str, float]:
        planned, names = self.plan.study.federation.weights, self.channel.names
        if planned == "equal":
            return dict.fromkeys(names, 1.0)
        assert not isinstance(planned, str)
        order = [party.name for party in self.plan.participants] or list(names)
        return {name: planned[order.index(name)] for name in names}

    def ask(
        self,
        step: Step,
        *,
        parameters: Mapping[str, Any] | None = None,
        arrays: Arrays | None = None,
        expected: Layout | None = None,
        fold: Fold = nothing,
    ) -> list[str]:
        """Ask every hospital one step; the names of those that answered, in the channel's order.

        Args:
            step: of the plan.
            parameters: of the task; the ledger heads of all charged steps so far if None.
            arrays: of the task.
            expected: shape and dtype of each array of a reply; none if None.
            fold: takes the arrays of each sound reply as it comes; the reply is dropped after it. Whether a quorum
                answered is known only at the end, so what was folded counts once `ask` has returned.

        Raises:
            TransportFailure: fewer than the quorum answered; names each that did not, and the code of its reason.
        """
        content = {"heads": copy.deepcopy(self.checkpoint.heads)} if parameters is None else parameters
        task = Task(self.plan.digest, step.index, step.action, content, arrays or {})
        names, federation = self.channel.names, self.plan.study.federation
        outcomes: dict[str, str | Missing] = {}
        with self.phase(self._title(step), len(names)) as advance:
            reach("coordinator: step to be asked")
            for name, answer in self.channel.ask(dict.fromkeys(names, task), deadline_s=federation.round_deadline_s):
                outcomes[name] = self._take(name, task, answer, expected or {}, fold)
                del answer  # before the next one comes
                advance(1)
            reach("coordinator: step answered")
        found = [(name, outcomes[name]) for name in names]  # in the same order whoever was first
        missing = {name: outcome.code for name, outcome in found if isinstance(outcome, Missing)}
        heads = {name: outcome for name, outcome in found if isinstance(outcome, str)}
        if missing:
            self.checkpoint.attendance[str(step.index)] = missing
        if len(heads) < federation.quorum:
            raise TransportFailure(
                f"{len(heads)} of {len(names)} hospitals answered step {step.index} ({step.action}), "
                f"and the quorum is {federation.quorum}.",
                "Missing: " + ", ".join(f"{name} ({code})" for name, code in missing.items()) + ".",
                "Mend the cause at those hospitals, then run the same command with --resume.",
            )
        if step.action in CHARGED:
            kept = {name: head for name, head in heads.items() if head}
            self.checkpoint.heads[str(step.index)] = kept
            self.checkpoint.latest_heads |= kept
            self.keep_heads(kept)
        return list(heads)

    def _take(self, name: str, task: Task, answer: Reply | Missing, expected: Layout, fold: Fold) -> str | Missing:
        """Fold one answer in, if it is sound; its ledger head, or why the hospital is missing."""
        if isinstance(answer, Missing):
            return answer
        if not self._sound(name, task, answer, expected):
            return Missing("malformed")
        try:
            fold(name, answer.arrays)
        except ProtocolViolation:
            return Missing("malformed")
        return answer.head

    def _sound(self, name: str, task: Task, reply: Reply, expected: Layout) -> bool:
        """Whether a reply is what the step gives: its arrays, and a ledger head of this very step.

        One hospital that answers otherwise is missing, and cannot stop the others.
        """
        if {n: (a.shape, str(a.dtype)) for n, a in reply.arrays.items()} != expected:
            return False
        keys = [party.public_key for party in self.plan.participants if party.name == name]
        if not keys:
            return True
        if task.action not in CHARGED:
            return not reply.head
        try:
            head, _ = read_head(reply.head, keys)
        except ManikinError:
            return False
        return (head.hospital, head.plan, head.step, head.request) == (
            name,
            task.plan_digest,
            task.step,
            task.digest.hex(),
        )

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


def layout(arrays: Arrays) -> Layout:
    """Shape and dtype of each array."""
    return {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
