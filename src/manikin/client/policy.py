"""A hospital's own rules: whose plans it follows, with whom, and how far. They stand in `policy.toml`, nowhere else.

Nothing is allowed by default. Without the file every plan is refused; each limit must be written down; only peers whose
keys are pinned here, and not past their date, count towards a quorum. A rule looks at the plan and the file alone,
never at a patient, so that its answer may be told to anyone. What a plan leaves of the budget over the cohort's life
depends on what earlier plans charged, and is the ledger's to refuse.

A plan's own promises are not checked here (that its noise keeps its ε, that its step is asked in turn): the vault does.
"""

from __future__ import annotations

import datetime
import json
import math
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.client.cohort.hospital import Hospital
from manikin.common import generators
from manikin.common.agreements import Key, Name
from manikin.common.errors import ManikinError, Misconfigured, PolicyRefusal
from manikin.common.files import write_atomically
from manikin.common.generators import GeneratorSpec
from manikin.common.plan import Party, Plan
from manikin.common.study import Finite, PretrainStage, ReleaseStage, TrainStage
from manikin.common.wire import CHARGED
from manikin.privacy.budget import stage_size

FILE = "policy.toml"
SCHEMA = 1
NUMBER_BYTES = 8  # of a sum: float64, or uint64 under masks
Count = Annotated[int, Field(gt=0, strict=True)]
YesOrNo = Annotated[bool, Field(strict=True)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Closed):
    """How far any plan may go. All must be stated.

    Args:
        epsilon, delta: the most that any patient may be charged over the life of the cohort, all plans added up.
        units: what a plan may promise to protect.
        patients_min: a plan must ask at least so many patients of each hospital.
        families: generator families whose statistics or weights may leave.
        shapes: images at most so large, one entry for each number of dimensions.
        rounds_max: how often anything charged may leave, in one plan.
        bytes_out_max: the largest arrays that may leave at once.
        quorum_min: no result of fewer hospitals.
        secure_sum_required: only sums leave that no one hospital's part can be told from.
        audits: the generator may be audited against this hospital's patients; what comes of it stays here.
    """

    epsilon: Annotated[Finite, Field(gt=0, strict=True)]
    delta: Annotated[Finite, Field(gt=0, lt=1, strict=True)]
    units: tuple[Literal["patient", "image"], ...]
    patients_min: Count
    families: tuple[str, ...]
    shapes: tuple[tuple[Count, ...], ...]
    rounds_max: Count
    bytes_out_max: Count
    quorum_min: Count
    secure_sum_required: YesOrNo
    audits: YesOrNo


class Pin(_Closed):
    """A key that this hospital verified out of band.

    Args:
        name: who holds it.
        key: 64 hex digits, Ed25519.
        until: the last day on which it counts; absent: no end.
    """

    name: Name
    key: Key
    until: datetime.date | None = None

    def counts(self, today: datetime.date) -> bool:
        """Whether it is not past its date."""
        return self.until is None or today <= self.until


class Revoked(_Closed):
    """A key that counts for nothing, whatever else is written."""

    key: Key


class _File(_Closed):
    schema_version: Literal[1] = Field(alias="schema")
    limits: Limits
    coordinator: tuple[Pin, ...] = ()
    peer: tuple[Pin, ...] = ()
    revoked: tuple[Revoked, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """One rule held against one plan.

    Args:
        rule: what the rule is about.
        planned: what the plan wants.
        allowed: what the policy allows.
        holds: whether the plan keeps the rule.
    """

    rule: str
    planned: str
    allowed: str
    holds: bool


@dataclass(frozen=True)
class Policy:
    """The rules of one hospital. Read them with `Policy.load`.

    Args:
        limits: how far a plan may go.
        own: this hospital, with its present key.
        coordinators: whose plans are followed.
        peers: hospitals that count for a quorum.
        revoked: keys that never count.
    """

    limits: Limits
    own: Party
    coordinators: tuple[Pin, ...] = ()
    peers: tuple[Pin, ...] = ()
    revoked: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """The policy of the hospital in `folder`.

        Raises:
            PolicyRefusal: it has none, so everything is refused.
            Misconfigured: the file is not a policy; names each key that is missing, unknown or out of range. Or the
                folder is no hospital.
        """
        hospital = Hospital.open(folder)
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise PolicyRefusal(
                f"{hospital.name} has no {FILE}, so every plan is refused.",
                "Nothing is allowed by default.",
                "Write one with: manikin hospital enroll",
            ) from None
        file = _parse(text)
        own = Party(hospital.name, hospital.signing_key.public_key.hex())
        revoked = frozenset(entry.key for entry in file.revoked)
        return cls(file.limits, own, _last(file.coordinator), _last(file.peer), revoked)

    def check_plan(self, plan: Plan, *, today: datetime.date) -> None:
        """Whether this hospital may follow a plan on a day. No patient is looked at.

        Raises:
            PolicyRefusal: names each rule that the plan breaks.
        """
        broken = [ruling for ruling in self.rulings(plan, today=today) if not ruling.holds]
        if broken:
            raise PolicyRefusal(
                "This hospital's policy refuses the plan.",
                "; ".join(f"{r.rule}: {r.planned}, allowed: {r.allowed}" for r in broken) + ".",
                f"See it with `manikin hospital review`; change {FILE}, or ask the coordinator for another plan.",
            )

    def rulings(self, plan: Plan, *, today: datetime.date) -> tuple[Ruling, ...]:
        """Every rule held against a plan, in the order in which a person reads them."""
        return (*self._parties(plan, today), *self._privacy(plan), *self._extent(plan))

    def _parties(self, plan: Plan, today: datetime.date) -> Iterator[Ruling]:
        own, coordinator = self.own, plan.coordinator
        pinned = self._pins(self.coordinators, today)
        yield Ruling(
            "coordinator",
            coordinator.name if coordinator else "nobody",
            _names(pinned) or "nobody",
            coordinator is not None and coordinator in pinned,
        )
        named = own in plan.participants and own.key not in self.revoked
        yield Ruling("this hospital", _names(plan.participants), f"{own.name} with its present key", named)
        gone = [party for party in plan.participants if party.key in self.revoked]
        yield Ruling("revoked keys", _names(gone) or "none", "none", not gone)
        counted = self.counted(plan, today=today)
        quorum = max(plan.study.federation.quorum, self.limits.quorum_min)
        yield Ruling("verified hospitals", str(len(counted)), f"at least {quorum}", len(counted) >= quorum)
        yield _least("quorum", plan.study.federation.quorum, self.limits.quorum_min)

    def counted(self, plan: Plan, *, today: datetime.date) -> frozenset[str]:
        """Keys of the participants that count for a quorum: this hospital, and peers that it pinned."""
        pinned = self._pins(self.peers, today)
        return frozenset(p.key for p in plan.participants if p == self.own or p in pinned) - self.revoked

    def _pins(self, pins: Sequence[Pin], today: datetime.date) -> list[Party]:
        return [Party(p.name, p.key) for p in pins if p.counts(today) and p.key not in self.revoked]

    def _privacy(self, plan: Plan) -> Iterator[Ruling]:
        privacy, limits = plan.study.privacy, self.limits
        yield Ruling("unit", privacy.unit, _list(limits.units), privacy.unit in limits.units)
        yield _most("ε of the plan", privacy.epsilon, limits.epsilon)
        yield _most("δ of the plan", privacy.delta, limits.delta)
        secure = plan.study.federation.mode != "local"
        yield Ruling(
            "secure sum", _yes(secure), "required" if limits.secure_sum_required else "not required",
            secure or not limits.secure_sum_required,
        )  # fmt: skip
        audits = any(step.action == "audit" for step in plan.steps())
        yield Ruling("audits here", _yes(audits), _yes(limits.audits), limits.audits or not audits)

    def _extent(self, plan: Plan) -> Iterator[Ruling]:
        limits, data = self.limits, plan.study.data
        yield _least("smallest cohort", data.patients_min, limits.patients_min)
        families = _list(sorted(_families(plan)))
        yield Ruling("generator families", families, _list(limits.families), self._knows_families(plan))
        shapes = "at most " + _list(map(_shape, limits.shapes))
        yield Ruling("shape of images", _shape(data.shape), shapes, self._allows_shape(plan))
        times = sum(step.action in CHARGED for step in plan.steps())
        yield _most("messages with content", times, limits.rounds_max)
        yield _most("bytes at once", max(part.size_bytes for part in self.what_leaves(plan)), limits.bytes_out_max)

    def what_leaves(self, plan: Plan) -> list[Part]:
        """All that a plan lets out; sizes are reckoned only of families and shapes that are allowed, else infinite."""
        return what_leaves(plan, measured=self._knows_families(plan) and self._allows_shape(plan))

    def _knows_families(self, plan: Plan) -> bool:
        return _families(plan) <= set(self.limits.families)

    def _allows_shape(self, plan: Plan) -> bool:
        shape = plan.study.data.shape
        return any(
            len(shape) == len(most) and all(a <= b for a, b in zip(shape, most, strict=True))
            for most in self.limits.shapes
        )


@dataclass(frozen=True)
class Part:
    """What leaves in one stage of a plan.

    Args:
        what: in words.
        times: how often.
        size_bytes: of the arrays, each time; infinite if it cannot be told.
    """

    what: str
    times: int
    size_bytes: float


def what_leaves(plan: Plan, *, measured: bool = True) -> list[Part]:
    """All that a plan lets out of a hospital beside acknowledgements, stage by stage.

    Args:
        plan: the plan.
        measured: reckon sizes, for which each generator is made once; else they are infinite.
    """
    charged = [n for n, stage in enumerate(plan.study.stage) if not isinstance(stage, PretrainStage)]
    parts = [_part(plan, n) for n in charged]
    return [Part(what, times, _size(measure) if measured else math.inf) for what, times, measure in parts]


def _part(plan: Plan, number: int) -> tuple[str, int, Callable[[], int]]:
    """What leaves in a stage, how often, and how to measure it."""
    stage, family = plan.study.stage[number], plan.study.generator.family
    masked = plan.study.federation.distributed
    hidden = ", under the masks of a secure sum" if masked else ""
    if isinstance(stage, ReleaseStage):
        what = f"one noised sum of {stage.family} statistics{hidden}"
        return what, 1 + stage.spares, lambda: NUMBER_BYTES * stage_size(plan, number)
    assert isinstance(stage, TrainStage)
    if masked:
        what = f"one noised sum of {family} gradients{hidden}"
        return what, stage.rounds, lambda: NUMBER_BYTES * stage_size(plan, number)
    spec = plan.generator_spec()
    return f"{family} weights after private training", stage.rounds, lambda: _state_bytes(spec)


def _families(plan: Plan) -> set[str]:
    return {plan.study.generator.family} | {s.family for s in plan.study.stage if isinstance(s, ReleaseStage)}


def _state_bytes(spec: GeneratorSpec) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in generators.create(spec).state().values())


def _size(measure: Callable[[], int]) -> float:
    """Bytes by `measure`, which makes a generator by a stranger's options."""
    try:
        return measure()
    except (ManikinError, RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError):
        return math.inf  # options that no generator can be made of: no limit is large enough


def _parse(text: str) -> _File:
    try:
        return _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{FILE} is not TOML.", f"{error}.", "Correct the file.") from None
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or FILE}: {e['msg']}" for e in error.errors()]
        raise Misconfigured(f"{FILE} is not a policy.", "; ".join(lines) + ".", "State each of these keys.") from None


def write_first(folder: Path, pin: str) -> None:
    """Write a policy with narrow limits and one pin; never over another.

    Raises:
        Misconfigured: there is one already.
        StorageFailure: the disk is full or not writable.
    """
    if (folder / FILE).exists():
        raise Misconfigured(f"There is a {FILE} already.", "It is yours, and never overwritten.", "Add to it.")
    template = (Path(__file__).parent / "policy-template.toml").read_text(encoding="utf-8")
    write_atomically(folder / FILE, f"{template}\n{pin}".encode(), mode=0o600)


def add(folder: Path, lines: str) -> None:
    """Add a pin or a revocation at the end; what is written there already stays, byte for byte.

    Raises:
        Misconfigured: the policy would not be one afterwards; it is as it was.
        StorageFailure: the disk is full or not writable.
    """
    before = (folder / FILE).read_text(encoding="utf-8")
    text = before + ("" if before.endswith("\n") else "\n") + f"\n{lines}"
    _parse(text)
    write_atomically(folder / FILE, text.encode(), mode=stat.S_IMODE((folder / FILE).stat().st_mode))


def pin_lines(table: Literal["coordinator", "peer"], name: str, key: str, until: datetime.date | None = None) -> str:
    """A pin, as it stands in the file.

    >>> print(pin_lines("peer", "South", "ab" * 32, datetime.date(2027, 1, 31)).strip())
    [[peer]]
    name = "South"
    key = "abababababababababababababababababababababababababababababababab"
    until = 2027-01-31
    """
    end = f"until = {until.isoformat()}\n" if until else ""
    return f'[[{table}]]\nname = {json.dumps(name, ensure_ascii=False)}\nkey = "{key}"\n{end}'


def revoked_lines(key: str) -> str:
    """A revocation, as it stands in the file."""
    return f'[[revoked]]\nkey = "{key}"\n'


def _last(pins: Sequence[Pin]) -> tuple[Pin, ...]:
    """Of pins of the same name and key the last, so that a date can be added or moved."""
    return tuple({(pin.name, pin.key): pin for pin in pins}.values())


def _names(parties: Any) -> str:
    return ", ".join(party.name for party in parties)


def _list(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _most(rule: str, planned: float, allowed: float) -> Ruling:
    return Ruling(rule, _number(planned), f"at most {_number(allowed)}", planned <= allowed)


def _least(rule: str, planned: int, allowed: int) -> Ruling:
    return Ruling(rule, _number(planned), f"at least {_number(allowed)}", planned >= allowed)
