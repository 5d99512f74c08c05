"""What crosses the wall between coordinator and hospital: tasks in, replies out. Message types only, no transport.

A task names the plan and a step of it; its digest covers every byte, so that a hospital can tell the same request
from a changed one. Arrays are dense, of a few plain dtypes, bounded in number and size, and finite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import rfc8785
from numpy.typing import NDArray

from manikin.common.errors import ProtocolViolation
from manikin.common.keys import SigningKey, holds

ARRAYS_MAX = 4096  # a generator has a few hundred tensors
ARRAYS_BYTES_MAX = 1 << 30  # one gibibyte: the largest generator and synthetic set that a task may carry
NUMBER_KINDS = "biuf"
DTYPES = frozenset({"float32", "float64", "int64", "uint64", "uint8"})

ACTIONS = ("open", "release", "train", "audit", "canary")
CHARGED = frozenset({"release", "train"})  # actions that a patient is charged for
MASKED = "masked"  # the array of an answer in distributed mode
RefusalCode = Literal["protocol-violation", "policy-refusal", "unavailable"]
_TASK, _REPLY = b"manikin task v1\n", b"manikin reply v1\n"  # what is signed can be taken for nothing else

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """What the coordinator asks of one hospital.

    Args:
        plan_digest: SHA-256 of the plan, hex; for `open` the digest of the plan that the parameters carry.
        step: position in the plan; a hospital does each step once.
        action: one of `ACTIONS`.
        parameters: JSON values.
        arrays: named arrays.
        signature: the coordinator's, over `digest`; Ed25519.
    """

    plan_digest: str
    step: int
    action: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    signature: bytes = b""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over every byte of the request but its signature."""
        head = {"plan": self.plan_digest, "step": self.step, "action": self.action, "parameters": self.parameters}
        return request_digest(head, self.arrays)

    def signed(self, key: SigningKey) -> Task:
        """This task with the coordinator's signature."""
        return replace(self, signature=key.sign(_TASK + self.digest))

    def check_signature(self, public_key: bytes) -> None:
        """Whether the coordinator asked exactly this.

        Raises:
            ProtocolViolation: the signature does not hold.
        """
        if not holds(public_key, self.signature, _TASK + self.digest):
            raise ProtocolViolation(
                "A task was refused.",
                "It is not signed by the plan's coordinator.",
                "Ask the coordinator whether its key was changed.",
            )


@dataclass(frozen=True)
class Reply:
    """What one hospital answers: arrays made by a charged mechanism, or nothing but the acknowledgement.

    Args:
        arrays: named arrays.
        name: the hospital.
        head: its signed ledger head after a charged step, as a DSSE envelope; "" after any other.
        offer: in distributed mode, its signed fresh key for the next secure sum (`privacy.roster.Offer`), as JSON.
        signature: the vault's, over the task's digest and `digest`; Ed25519.
    """

    arrays: Arrays = field(default_factory=dict)
    name: str = ""
    head: str = ""
    signature: bytes = b""
    offer: Mapping[str, str] | None = None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over every byte of the reply but its signature."""
        offer = None if self.offer is None else dict(self.offer)
        return request_digest({"name": self.name, "head": self.head, "offer": offer}, self.arrays)

    def signed(self, key: SigningKey, task: Task) -> Reply:
        """This reply with the vault's signature, as the answer to `task` and to no other."""
        return replace(self, signature=key.sign(_REPLY + task.digest + self.digest))

    def check_signature(self, public_key: bytes, task: Task) -> None:
        """Whether this hospital's vault answered `task` with exactly this.

        Raises:
            ProtocolViolation: the signature does not hold.
        """
        if not holds(public_key, self.signature, _REPLY + task.digest + self.digest):
            raise ProtocolViolation(
                "A reply was refused.",
                f"It is not signed by the vault of {self.name!r} as an answer to this task.",
                "Ask the hospital whether its key was changed.",
            )


@dataclass(frozen=True)
class Refused:
    """A vault that says no, and all that it says about why.

    `protocol-violation` and `policy-refusal` only for reasons that no patient moves; anything else is `unavailable`.
    """

    code: RefusalCode


def request_digest(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """SHA-256 of everything that a request says.

    Args:
        metadata: JSON values; hashed in their canonical form (RFC 8785), so that key order does not matter.
        arrays: numeric arrays by name; name, dtype, shape and bytes (little-endian, C order) all count.

    Returns:
        32 bytes.

    Raises:
        ProtocolViolation: metadata are not canonical JSON (NaN, integers beyond 2**53), or an array is not numeric.
    """
    described = [_describe(name, array) for name, array in sorted((arrays or {}).items())]
    try:
        canonical = rfc8785.dumps({"metadata": dict(metadata), "arrays": described})
    except rfc8785.CanonicalizationError as error:
        raise ProtocolViolation("The request cannot be put in canonical form.", f"{error}.") from None
    return hashlib.sha256(canonical).digest()


def _describe(name: str, array: NDArray[Any]) -> dict[str, Any]:
    if array.dtype.kind not in NUMBER_KINDS:
        raise ProtocolViolation(f"Array {name!r} of the request is not numeric.", f"Its type is {array.dtype}.")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data).hexdigest()
    return {"name": name, "dtype": little.dtype.str, "shape": list(array.shape), "sha256": digest}


def check_arrays(arrays: Arrays) -> None:
    """Refuse arrays that are too many, too large, of another dtype, or not finite.

    Raises:
        ProtocolViolation: names the first array that breaks a rule.
    """
    if len(arrays) > ARRAYS_MAX:
        raise _violation(f"It carries {len(arrays)} arrays, more than {ARRAYS_MAX}.")
    if sum(a.nbytes for a in arrays.values()) > ARRAYS_BYTES_MAX:
        raise _violation(f"Its arrays are larger than {ARRAYS_BYTES_MAX} bytes together.")
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise _violation(f"Array {name!r} has dtype {array.dtype}, which is not one of {sorted(DTYPES)}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _violation(f"Array {name!r} has values that are not finite.")


def _violation(why: str) -> ProtocolViolation:
    return ProtocolViolation("A message was refused.", why, "Ask the sender which version it runs.")
