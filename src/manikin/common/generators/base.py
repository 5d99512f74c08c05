"""What a generator family promises: three small protocols and the spec that fixes its layout."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.common.images import Patient

AXIS_MAX = 2048  # a cosine transform holds the square of it
VOXELS_MAX = 1 << 24  # 256 cubed
STATE_VALUES_MAX = 1 << 26  # a quarter of what a task may carry, in float32


@dataclass(frozen=True)
class GeneratorSpec:
    """Everything that fixes the layout of a generator's state; public, part of plan and release.

    Args:
        family: name in the registry.
        channels: image channels.
        shape: spatial shape; its length is the number of spatial dimensions.
        labels: names of the classes, in order of their index.
        options: the family's own settings (widths, number of coefficients, ...), JSON values only.
    """

    family: str
    channels: int
    shape: tuple[int, ...]
    labels: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GeneratorSpec:
        raw = json.loads(text)
        return cls(raw["family"], raw["channels"], tuple(raw["shape"]), tuple(raw["labels"]), raw["options"])


@runtime_checkable
class Generator(Protocol):
    """Every family: a spec, a state, and samples."""

    spec: GeneratorSpec

    def state(self) -> dict[str, Tensor]:
        """All tensors that `load_state` needs, fit for safetensors."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; raises ProtocolViolation if names, shapes, dtypes or finiteness do not fit the spec."""
        ...

    def sample(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images float32 (n, c, *spatial) in [-1, 1] for class indices int64 (n,); same generator state, same bytes."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """Families that gradients of patients may touch."""

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """(n,): one scalar an image; no operation mixes images (no BatchNorm)."""
        ...

    def private_parameters(self) -> Iterable[torch.nn.Parameter]:
        """The parameters that DP-SGD may move; all others stay as pre-training and release left them."""
        ...


@runtime_checkable
class TrainableGenerator(Generator, Trainable, Protocol):
    """A generator that gradients of patients may touch."""


@runtime_checkable
class Shareable(Trainable, Protocol):
    """A loss in two halves, `loss(...) == error(*draw(...))`, so that patients can draw alone and share the pass.

    Every private parameter is used by its layer's own forward and nowhere else, and no layer's input or output is
    changed in place.
    """

    def draw(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """All that is random, on the CPU; tensors with one row an image."""
        ...

    def error(self, *drawn: Tensor) -> Tensor:
        """(n,): the loss of each row of what `draw` gave, on any device; nothing is random."""
        ...


@runtime_checkable
class Releasable(Protocol):
    """Families fitted from one noisy sum over patients."""

    norm_bound: float

    def statistic(self, patient: Patient) -> NDArray[np.float64]:
        """float64 (d,), L2 norm at most `norm_bound`, of this patient alone."""
        ...

    def fit(self, noisy_sum: NDArray[np.float64], *, noise_std: float) -> None:
        """Post-processing of the released sum; `noise_std` is the noise of one coordinate, in the sum's units."""
        ...


def check_extent(spec: GeneratorSpec) -> None:
    """Refuse images that no family is made for, before anything of their size is.

    Raises:
        Misconfigured: an image is empty or too large, or there are too many for one of each class.
    """
    voxels = spec.channels * math.prod(spec.shape)
    if not 0 < voxels <= VOXELS_MAX or not all(0 < size <= AXIS_MAX for size in spec.shape):
        raise Misconfigured(
            f"No generator is made for images of {spec.channels} × {' × '.join(map(str, spec.shape))} values.",
            f"An axis has 1 to {AXIS_MAX}, and all have at most {VOXELS_MAX}.",
            "Correct [data] shape and channels.",
        )
    check_state_size(len(spec.labels) * voxels)


def check_state_size(values: int) -> None:
    """Refuse a state before it is made.

    Raises:
        Misconfigured: it would hold more values than a generator may.
    """
    if values > STATE_VALUES_MAX:
        raise Misconfigured(
            f"The generator would hold {values} numbers.",
            f"At most {STATE_VALUES_MAX} are allowed.",
            "Choose smaller options, smaller images or fewer labels.",
        )


def read_options(spec: GeneratorSpec, defaults: Mapping[str, Any], most: Mapping[str, float]) -> dict[str, Any]:
    """The spec's options over a family's defaults.

    Args:
        spec: whose options.
        defaults: every option of the family.
        most: the largest value of each option that is a number.

    Raises:
        Misconfigured: an option is unknown, not of its default's type, or out of range.
    """
    unknown = sorted(set(spec.options) - set(defaults))
    if unknown:
        raise Misconfigured(
            f"The generator family {spec.family!r} has no option {', '.join(map(repr, unknown))}.",
            f"Its options are {', '.join(sorted(defaults))}.",
            "Correct [generator] or the release stage in the study.",
        )
    for name, value in spec.options.items():
        wanted = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise Misconfigured(f"The option {name!r} should be like {defaults[name]!r}.", "", "Correct the study.")
        if isinstance(value, (int, float)) and not 0 <= value <= most[name]:
            raise Misconfigured(
                f"The option {name!r} must be a number from 0 to {most[name]:g}.", "", "Correct the study."
            )
    return {**defaults, **spec.options}


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, free: Collection[str] = ()) -> None:
    """Refuse a state whose names, shapes, dtypes or finiteness do not fit; those in `free` may differ in length.

    Raises:
        ProtocolViolation: says which tensor, never its values.
    """
    problems = sorted(set(state) ^ set(wanted))
    for name in sorted(set(state) & set(wanted)):
        skip = 1 if name in free else 0
        same_shape = state[name].ndim == wanted[name].ndim and state[name].shape[skip:] == wanted[name].shape[skip:]
        fits = same_shape and state[name].dtype == wanted[name].dtype
        if not fits or not bool(torch.isfinite(state[name]).all()):
            problems.append(name)
    if problems:
        raise ProtocolViolation(
            "A generator state does not fit its spec.",
            f"These tensors are missing, unexpected, misshapen or not finite: {', '.join(problems)}.",
            "Use the spec that the state was made with.",
        )
