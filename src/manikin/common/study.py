"""A study: the TOML file that a coordinator writes, read into frozen, validated values.

Unknown keys are refused, and nothing about privacy, quorum or audits has a default: whoever runs a study says it.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from manikin.common.errors import Misconfigured


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Rate = Annotated[Finite, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
STAGES_MAX, ROUNDS_MAX = 32, 10_000


class Section(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of patients, decided for each patient alone by a keyed hash of the id."""

    train: Rate
    holdout: Rate
    calibration: Rate

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if not math.isclose(self.train + self.holdout + self.calibration, 1.0, abs_tol=1e-9):
            raise ValueError("train, holdout and calibration must sum to 1")
        return self


class Data(Section):
    """What an image of the study is, and how a native image is brought to it.

    `spacing_mm` absent: the whole field of view is resized to `shape`. `window` is in native units; with
    `window_percentiles` each image is windowed by its own percentiles. `channels` picks native channels, in order.
    """

    modality: Literal["CR", "DX", "MR", "CT", "OT"]
    spatial_dims: Literal[2, 3]
    shape: tuple[Count, ...]
    spacing_mm: tuple[Positive, ...] | None = None
    window: tuple[Finite, Finite] | None = None
    window_percentiles: tuple[Finite, Finite] | None = None
    channels: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    labels: tuple[str, ...] = Field(min_length=1)
    patients_min: Count
    split: Split

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if len(self.shape) != self.spatial_dims:
            raise ValueError(f"shape has {len(self.shape)} numbers but spatial_dims is {self.spatial_dims}")
        if self.spacing_mm is not None and len(self.spacing_mm) != self.spatial_dims:
            raise ValueError("spacing_mm needs one number for each spatial dimension")
        if (self.window is None) == (self.window_percentiles is None):
            raise ValueError("give exactly one of window and window_percentiles")
        low, high = self.window or self.window_percentiles or (0.0, 1.0)
        if low >= high:
            raise ValueError("the window's lower end must be below its upper end")
        if self.window_percentiles and not 0 <= low < high <= 100:
            raise ValueError("window_percentiles lie between 0 and 100")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self


class Privacy(Section):
    """The guarantee asked for: everything of the study together, for one patient, add/remove neighbouring."""

    epsilon: Positive
    delta: Annotated[Finite, Field(gt=0, lt=1)]
    unit: Literal["patient", "image"]
    multiplicity: Count


class Federation(Section):
    """Who must take part, and how what they send is combined.

    `mode`: "local", each hospital adds all the noise that it needs; "distributed", each adds a share, and only sums
    leave (secure sum). `collusion`: in distributed mode, how many hospitals may work with the server against the
    others: their shares of the noise are not counted on.
    """

    mode: Literal["local", "distributed"]
    quorum: Count
    collusion: Count | None = None
    round_deadline_s: Positive
    weights: Literal["equal"] | tuple[Positive, ...]

    @property
    def distributed(self) -> bool:
        """Whether only secure sums leave."""
        return self.mode == "distributed"

    @model_validator(mode="after")
    def _collusion_stated(self) -> Federation:
        if self.distributed != (self.collusion is not None):
            raise ValueError("collusion is stated in distributed mode, and in no other")
        if self.collusion is not None and self.quorum < self.collusion + 2:
            raise ValueError("a sum hides a hospital only among two honest ones: quorum must be collusion + 2 or more")
        if self.distributed and self.weights != "equal":
            raise ValueError('in distributed mode sums are added as they are: weights must be "equal"')
        return self


class GeneratorChoice(BaseModel):
    """The family, and its own options, which the family validates."""

    model_config = ConfigDict(extra="allow", frozen=True)

    family: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PretrainStage(Section):
    """Learn anatomy from simulated scans at the coordinator: nothing crosses the wire."""

    kind: Literal["pretrain"]
    source: Literal["phantoms"]
    phantom: Literal["chest-xr", "brain-mr"] | None = None
    count: Count = 4000
    steps: Count = 1500
    seed: int = 0


class ReleaseStage(BaseModel):
    """One noisy sum of a bounded statistic a patient, from each hospital.

    `spares`, in distributed mode: how often it may be asked anew, of those who are left, when a hospital was lost; each
    is paid for whether used or not. All other keys are options of the stage's family.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal["release"]
    family: str
    epsilon_share: Rate
    spares: Annotated[int, Field(ge=0, le=8)] = 0

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class TrainStage(Section):
    """DP-SGD: at each hospital, the server averaging weights after each round; or of all of them together.

    `sample_rate` and `batch_size` (patients drawn in a step at one hospital) are public numbers of the plan, never
    derived from a cohort. `steps` is the total over all rounds; in distributed mode every round is one step.
    """

    kind: Literal["train"]
    epsilon_share: Rate
    sample_rate: Rate
    batch_size: Count
    draws: Count
    steps: Count
    rounds: Annotated[int, Field(gt=0, le=ROUNDS_MAX)]
    clip: Positive
    learning_rate: Positive
    ema: Annotated[Finite, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _rounds_fit(self) -> TrainStage:
        if self.rounds > self.steps:
            raise ValueError("there cannot be more rounds than steps")
        return self


Stage = Annotated[PretrainStage | ReleaseStage | TrainStage, Field(discriminator="kind")]


class Audit(Section):
    """What the audits ask.

    `fpr`: false-positive rate at which membership is tested. `alpha`: chance that a generator without a leak fails at
    any of `quorum` hospitals; each tests at its share. `synthetic`: images drawn for the audits. `tpr_limit`: largest
    accepted share of training patients recognised at `fpr`.
    """

    epsilon_share: Share
    fpr: Annotated[Finite, Field(gt=0, lt=1)]
    alpha: Annotated[Finite, Field(gt=0, lt=1)]
    synthetic: Count
    tpr_limit: Annotated[Finite, Field(gt=0, lt=1)]


class Study(Section):
    """One study, as its TOML file says it."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    data: Data
    privacy: Privacy
    federation: Federation
    generator: GeneratorChoice
    stage: tuple[Stage, ...] = Field(min_length=1, max_length=STAGES_MAX)
    audit: Audit

    @model_validator(mode="after")
    def _shares_fit(self) -> Study:
        spent = self.audit.epsilon_share + sum(s.epsilon_share for s in self.stage if not isinstance(s, PretrainStage))
        if spent > 1 + 1e-9:
            raise ValueError(f"the epsilon_share of all stages and the audit sum to {spent:g}, more than 1")
        if not any(not isinstance(s, PretrainStage) for s in self.stage):
            raise ValueError("no stage looks at patients: add a release or train stage")
        if self.federation.distributed:
            self._check_distributed()
        elif any(isinstance(s, ReleaseStage) and s.spares for s in self.stage):
            raise ValueError("spares are for distributed mode: elsewhere a lost hospital stops nothing")
        if isinstance(self.federation.weights, tuple) and self.federation.quorum != len(self.federation.weights):
            raise ValueError("planned weights need a quorum of all hospitals that they name")
        return self

    def _check_distributed(self) -> None:
        if any(isinstance(s, TrainStage) and s.rounds != s.steps for s in self.stage):
            raise ValueError("in distributed mode each step is one secure sum: rounds must be equal to steps")


def parse_study(raw: dict[str, Any], *, source: str = "study") -> Study:
    """A study from a mapping.

    Raises:
        Misconfigured: a key is unknown, missing or out of range; the message names each.
    """
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'study'}: {e['msg']}" for e in error.errors()]
        raise Misconfigured(
            f"{source} is not a valid study.", "; ".join(lines) + ".", "Correct these keys; see docs/coordinator.md."
        ) from None


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        Misconfigured: the file is missing, not TOML, or not a study.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise Misconfigured(f"There is no study file {path}.", "", "Give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path.name} is not TOML.", f"{error}.", "Correct the file.") from None
    return parse_study(raw, source=path.name)
