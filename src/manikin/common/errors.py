"""One tree of errors, by who must act.

Each error says what happened, why, and what to do next, and knows its exit code (`docs/exit-codes.md`). None
carries pixel values, patient names or paths below a hospital's data root; across the wire goes `code`, never text.
"""

from __future__ import annotations

from typing import ClassVar


class ManikinError(Exception):
    """Base of every error that a person is meant to read.

    Args:
        what: one sentence on what happened.
        why: one sentence on the reason.
        next_step: one sentence on what to do.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.next_step = what, why, next_step

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.next_step) if part)

    def __reduce__(self) -> tuple[type[ManikinError], tuple[str, str, str]]:
        return type(self), (self.what, self.why, self.next_step)


class Misconfigured(ManikinError):
    """The person who wrote the study, the plan or the command line must change it."""

    code, exit_code = "misconfigured", 10


class BadData(ManikinError):
    """The data given cannot be used as they are."""

    code, exit_code = "bad-data", 11


class PolicyRefusal(ManikinError):
    """The hospital's own rules say no."""

    code, exit_code = "policy-refusal", 12


class BudgetExhausted(ManikinError):
    """The privacy budget does not allow this step, or no noise level meets the target."""

    code, exit_code = "budget-exhausted", 13


class ProtocolViolation(ManikinError):
    """The other party broke the rules: a changed step, a wrong plan, a malformed array."""

    code, exit_code = "protocol-violation", 14


class AuditFailed(ManikinError):
    """An audit found evidence against the release."""

    code, exit_code = "audit-failed", 15


class TransportFailure(ManikinError):
    """A peer did not answer, so that a quorum was missed."""

    code, exit_code = "transport-failure", 16


class VerificationFailed(ManikinError):
    """A signature, a digest or a trust file does not hold."""

    code, exit_code = "verification-failed", 17


class StorageFailure(ManikinError):
    """The disk is full or not writable."""

    code, exit_code = "storage-failure", 18
