"""What is asked of a release: how many images, of which classes, from which seed, in which format.

Everything that follows from the numbers alone lives here: how many of each class, which image is of which class, and
how the work is cut into shards. The class mix is met exactly, and nearly so by every beginning of the data set.

>>> request = Request("0" * 64, 10, ("normal", "rare"), (0.75, 0.25), 0, "npz")
>>> request.counts, request.classes().tolist()
((8, 2), [0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from manikin.common.documents import canonical_json
from manikin.common.errors import Misconfigured
from manikin.common.images import Int64Array

FORMATS = ("nifti", "dicom", "png", "npz")
COUNT_MAX = 10_000_000
SEED_MAX = 2**53 - 1  # the largest integer that every JSON reader reads alike
SHARE_TOLERANCE = 1e-6
SHARD_IMAGES, SHARD_VALUES = 256, 1 << 20  # a shard is small enough to redo, large enough to batch


@dataclass(frozen=True)
class Request:
    """A data set to be made.

    Args:
        release_digest: digest of the release that it is drawn from, hex.
        count: number of images; each is a patient of its own.
        labels: class names, in order of their index.
        mix: share of each class; they sum to 1.
        seed: any number; the same one gives the same data set.
        format: one of `FORMATS`.

    Raises:
        Misconfigured: a value is out of range, or the shares do not sum to 1.
    """

    release_digest: str
    count: int
    labels: tuple[str, ...]
    mix: tuple[float, ...]
    seed: int
    format: str

    def __post_init__(self) -> None:
        if not 1 <= self.count <= COUNT_MAX:
            raise _misconfigured(f"{self.count} images cannot be made.", f"The count lies in 1 to {COUNT_MAX}.")
        if not 0 <= self.seed <= SEED_MAX:
            raise _misconfigured(f"{self.seed} is no seed.", f"A seed lies in 0 to {SEED_MAX}.")
        if self.format not in FORMATS:
            raise _misconfigured(f"There is no format {self.format!r}.", f"The formats are {', '.join(FORMATS)}.")
        if len(self.mix) != len(self.labels) or not all(math.isfinite(s) and 0 <= s <= 1 for s in self.mix):
            raise _misconfigured("The mix is not one share between 0 and 1 for each class.")
        if abs(math.fsum(self.mix) - 1) > SHARE_TOLERANCE:
            raise _misconfigured(f"The shares of the mix sum to {math.fsum(self.mix):g}, not to 1.")

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Images of each class: the shares by largest remainder, so that they sum to `count` exactly."""
        quotas = np.array(self.mix) / math.fsum(self.mix) * self.count
        counts = np.floor(quotas).astype(np.int64)
        by_remainder = np.argsort(counts - quotas, kind="stable")
        counts[by_remainder[: self.count - int(counts.sum())]] += 1
        return tuple(int(n) for n in counts)

    def classes(self) -> Int64Array:
        """Class index of every image, int64 (count,): each next image is of the class that is furthest behind."""
        shares = np.array(self.counts) / self.count
        given = np.zeros(len(shares), np.int64)
        order = np.empty(self.count, np.int64)
        for position in range(self.count):
            behind = np.where(given < self.counts, shares * (position + 1) - given, -np.inf)
            order[position] = behind.argmax()
            given[order[position]] += 1
        return order

    @cached_property
    def data_set_digest(self) -> str:
        """SHA-256 that tells this data set from every other, whatever its format: the root of all ids and UIDs."""
        content = {key: value for key, value in self.to_dict().items() if key != "format"}
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def patient(self, index: int) -> str:
        """Id of the patient who does not exist."""
        return f"SYNTH-{self.data_set_digest[:10].upper()}-{index:06d}"

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values, with `mix` and `counts` by class name."""
        return {
            "release_digest": self.release_digest,
            "count": self.count,
            "labels": list(self.labels),
            "mix": dict(zip(self.labels, self.mix, strict=True)),
            "counts": dict(zip(self.labels, self.counts, strict=True)),
            "seed": self.seed,
            "format": self.format,
        }


@dataclass(frozen=True)
class Shard:
    """Images `start` to `stop`, always drawn together from one stream."""

    index: int
    start: int
    stop: int

    def seed(self, request: Request) -> int:
        """63 bits from the release, the request's seed and the shard's place."""
        text = f"{request.release_digest} {request.seed} {self.index}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def shards(request: Request, values_per_image: int) -> list[Shard]:
    """The request in pieces whose size depends on the image's size alone, never on the machine."""
    size = min(SHARD_IMAGES, max(1, SHARD_VALUES // values_per_image))
    starts = range(0, request.count, size)
    return [Shard(index, start, min(start + size, request.count)) for index, start in enumerate(starts)]


def parse_mix(parts: Sequence[str]) -> dict[str, float] | None:
    """Shares from `label=share` texts; None if there are none.

    Raises:
        Misconfigured: a text has another form, or names a class twice.
    """
    shares: dict[str, float] = {}
    for part in parts:
        label, _, share = part.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            raise _misconfigured(f"The mix {part!r} is not understood.", f"{share!r} is not a number.") from None
        if not label or label in shares:
            raise _misconfigured(f"The mix {part!r} is not understood.", "Each part names one class, once.")
        shares[label] = value
    return shares or None


def shares_of(mix: Mapping[str, float] | None, labels: tuple[str, ...]) -> tuple[float, ...]:
    """One share a class: equal ones without a mix, 0 for classes that a mix does not name.

    Raises:
        Misconfigured: the mix names a class that there is not.
    """
    if mix is None:
        return (1 / len(labels),) * len(labels)
    for label in mix:
        if label not in labels:
            raise _misconfigured(f"There is no class {label!r}.", f"The classes are {', '.join(labels)}.")
    return tuple(float(mix.get(label, 0.0)) for label in labels)


def _misconfigured(what: str, why: str = "") -> Misconfigured:
    return Misconfigured(what, why, "Correct the command; shares are given as --mix normal=0.5 --mix rare=0.5.")
