"""The round loop: stage by stage, with a stated quorum, a checkpoint after each move, and resumption.

A *move* is pre-training, one release, or one round of training. Moves are deterministic given the plan and the
hospitals' answers, and hospitals answer a step with the same bytes again; so a run that was killed and resumed
ends with the same generator as one that was not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from manikin.common import generators
from manikin.common.faults import reach
from manikin.common.generators import Generator, Releasable, TrainableGenerator
from manikin.common.plan import Plan, Step
from manikin.common.study import PretrainStage, ReleaseStage, TrainStage
from manikin.common.wire import Arrays
from manikin.privacy.budget import stage_size
from manikin.privacy.mechanisms import public_grid
from manikin.server.aggregation import ReleaseSum, StateMean
from manikin.server.asking import Asking, KeepHeads, Phase, silent, to_numpy
from manikin.server.channel import Channel
from manikin.server.checkpoints import Checkpoint, Checkpoints
from manikin.server.descent import Descent
from manikin.server.offers import opening
from manikin.server.pretraining import adapt, pretrain, prior_images
from manikin.server.replies import layout, moving
from manikin.server.sums import SecureSums, Sum

CANARY_STEP = 0


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
        keep_heads: KeepHeads = lambda _: None,
    ) -> None:
        self.plan, self.channel, self.checkpoints, self.phase = plan, channel, checkpoints, phase
        self.checkpoint = checkpoints.load() or Checkpoint()
        self.asking = Asking(plan, channel, self.checkpoint, phase, keep_heads)
        self.ask = self.asking.ask
        self.sums = SecureSums(self.asking, self.save)
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
        waiting = [move.step for move in self.moves()[self.checkpoint.done :] if move.step is not None]
        first = next((step for step in waiting if not self._idle(step)), None)
        self.ask(self.plan.steps()[0], parameters=opening(self.plan, first, self.checkpoint.latest_heads))
        for number, move in enumerate(self.moves()):
            if number < self.checkpoint.done:
                continue
            started = time.monotonic()
            kind = self._do(move)
            reach("coordinator: move done")
            spent = self.checkpoint.seconds
            spent[kind] = spent.get(kind, 0.0) + time.monotonic() - started
            self.checkpoint.done = number + 1
            self.save()
            reach("coordinator: checkpoint saved")
        self._complete()
        return self.generator

    def save(self) -> None:
        """Put the run on disk as it stands."""
        if self._generator is not None:
            self.checkpoint.state = self._generator.state()
        self.checkpoints.save(self.checkpoint)

    def canary(self) -> None:
        """One round over the real sites with messages as large as real ones, and no patient in it.

        Raises:
            TransportFailure: fewer hospitals than the quorum answered.
        """
        self.ask(self.plan.steps()[0], parameters=opening(self.plan, None, {}))
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
            return stage.kind
        assert move.step is not None
        if isinstance(stage, ReleaseStage):
            if not self._idle(move.step):
                self._release(stage, move.step)
        elif self.plan.study.federation.distributed:
            self._descend(stage, move.step)
        else:
            self._train(move.step)
        return stage.kind

    def _idle(self, step: Step) -> bool:
        """Whether it is a spare that nobody needs."""
        before = [s.index for s in self.plan.steps() if s.stage == step.stage and s.index < step.index]
        return step.spare and not set(before) <= set(self.checkpoint.lost)

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

    def _release(self, stage: ReleaseStage, step: Step) -> None:
        spec = self.plan.release_spec(stage)
        own = spec == self.generator.spec
        family = self.generator if own else generators.create(spec)
        if self.prior is not None and hasattr(family, "set_prior"):
            family.set_prior(self.prior)
        assert isinstance(family, Releasable)
        arrays = to_numpy(family.state())
        if self.plan.study.federation.distributed:
            found = self.sums.ask(step, arrays, sensitivity=family.norm_bound)
        else:
            found = self._local_sum(step, arrays, sensitivity=family.norm_bound)
        if found is None:
            return
        family.fit(found.total, noise_std=found.noise_std)
        if not own:
            with self.phase("Carrying the release into the generator", None) as advance:
                adapt(self.generator, family, self.prior, progress=advance)

    def _local_sum(self, step: Step, arrays: Arrays, *, sensitivity: float) -> Sum:
        """The sum of vectors to which each hospital added all the noise that it needs."""
        noise = self.plan.noise_multipliers[step.stage]
        assert noise is not None
        size, noise_std = stage_size(self.plan, step.stage), noise * sensitivity
        total = ReleaseSum(size, grid=public_grid(noise_std), hospitals=len(self.channel.names))
        answered = self.ask(step, arrays=arrays, expected={"sum": ((size,), "float64")}, fold=total.add)
        return Sum(total.total, noise_std * len(answered) ** 0.5, len(answered))

    def _train(self, step: Step) -> None:
        if not self.checkpoint.state:
            self.checkpoint.state = self.generator.state()
        self._generator = None
        moving(self.plan)  # known before answers need the room
        state = to_numpy(self.checkpoint.state)
        with StateMean(state, self._weights(), self.checkpoints.file.parent) as mean:
            self.ask(step, arrays=state, expected=layout(state), fold=mean.add)
            self.checkpoint.state = mean.result()

    def _descend(self, stage: TrainStage, step: Step) -> None:
        """One step of DP-SGD of the union; a step that was lost moves nothing."""
        model = self.generator
        assert isinstance(model, TrainableGenerator)
        found = self.sums.ask(step, to_numpy(model.state()), sensitivity=stage.clip)
        descent = Descent(
            list(model.private_parameters()),
            learning_rate=stage.learning_rate,
            ema=stage.ema,
            state=self.checkpoint.descent,
        )
        if found is not None:
            descent.step(found.total / (stage.batch_size * found.hospitals))
        self.checkpoint.descent = descent.state()
        if step.round + 1 == stage.rounds:
            descent.finish()
            self.checkpoint.descent = {}

    def _weights(self) -> dict[str, float]:
        planned, names = self.plan.study.federation.weights, self.channel.names
        if planned == "equal":
            return dict.fromkeys(names, 1.0)
        assert not isinstance(planned, str)
        order = [party.name for party in self.plan.participants] or list(names)
        return {name: planned[order.index(name)] for name in names}
