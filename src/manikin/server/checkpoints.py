"""Checkpoints: the generator after each move of a run, on disk before the next one starts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically


@dataclass
class Checkpoint:
    """Where a run stands.

    Args:
        done: moves that are finished.
        state: the generator's tensors after them.
        attendance: for each step, the hospitals that missed it and why.
        seconds: seconds spent in each kind of move.
        heads: the hospitals' signed ledger heads after each charged step: the next task carries them.
        latest_heads: the newest head of each hospital, also of one that missed the last step.
    """

    done: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    attendance: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    latest_heads: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoint file of one run folder, tied to its plan."""

    def __init__(self, folder: Path, plan_digest: str) -> None:
        self.file = folder / "checkpoint.safetensors"
        self.plan_digest = plan_digest

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint: write, fsync, rename.

        Raises:
            StorageFailure: the disk is full; the former checkpoint stands.
        """
        head = {
            "plan": self.plan_digest,
            "done": checkpoint.done,
            "attendance": checkpoint.attendance,
            "seconds": checkpoint.seconds,
            "heads": checkpoint.heads,
            "latest_heads": checkpoint.latest_heads,
        }
        state = {name: tensor.detach().contiguous() for name, tensor in checkpoint.state.items()}
        write_atomically(self.file, save_tensors(state, {"manikin": json.dumps(head)}))

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None.

        Raises:
            Misconfigured: it belongs to another plan.
        """
        if not self.file.exists():
            return None
        with safe_open(self.file, framework="pt") as file:
            head: dict[str, Any] = json.loads(file.metadata()["manikin"])
            if head["plan"] != self.plan_digest:
                raise Misconfigured(
                    "The run folder holds a checkpoint of another plan.",
                    "A plan is never edited, and its checkpoints fit no other.",
                    "Give the study that the run was started with, or another --out folder.",
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return Checkpoint(head["done"], state, head["attendance"], head["seconds"], head["heads"], head["latest_heads"])
