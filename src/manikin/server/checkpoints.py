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

HEAD = ("done", "attendance", "seconds", "heads", "latest_heads", "offers", "asked", "lost")
DESCENT = "descent/"


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
        offers: in distributed mode, the hospitals' keys for secure sums, by step and hospital.
        asked: in distributed mode, the last step that was asked and the offers it was asked with, so that a resumed run
            asks the very same.
        lost: charged steps that gave no sum, since a hospital was lost on the way.
        descent: tensors of the server's optimiser, in the middle of a stage.
    """

    done: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    attendance: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    latest_heads: dict[str, str] = field(default_factory=dict)
    offers: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    descent: dict[str, Tensor] = field(default_factory=dict)


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
        head = {"plan": self.plan_digest} | {name: getattr(checkpoint, name) for name in HEAD}
        tensors = dict(checkpoint.state) | {DESCENT + name: tensor for name, tensor in checkpoint.descent.items()}
        dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_atomically(self.file, save_tensors(dense, {"manikin": json.dumps(head)}))

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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith(DESCENT)}
        descent = {name.removeprefix(DESCENT): tensor for name, tensor in tensors.items() if name not in state}
        return Checkpoint(state=state, descent=descent, **{name: head[name] for name in HEAD})
