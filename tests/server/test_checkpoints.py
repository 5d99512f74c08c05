import errno
import os

import pytest
import torch

from manikin.common.errors import Misconfigured, StorageFailure
from manikin.server.checkpoints import Checkpoint, Checkpoints


def test_a_checkpoint_comes_back_whole(tmp_path):
    saved = Checkpoint(3, {"w": torch.arange(4.0)}, {"2": {"north": "lost"}}, {"train": 1.5})
    Checkpoints(tmp_path, "plan").save(saved)
    loaded = Checkpoints(tmp_path, "plan").load()
    assert loaded is not None
    assert torch.equal(loaded.state["w"], saved.state["w"])
    assert (loaded.done, loaded.attendance, loaded.seconds) == (saved.done, saved.attendance, saved.seconds)


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    Checkpoints(tmp_path, "plan").save(Checkpoint(1))
    with pytest.raises(Misconfigured, match="another plan"):
        Checkpoints(tmp_path, "other").load()


def test_a_full_disk_keeps_the_former_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "plan")
    checkpoints.save(Checkpoint(1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailure):
        checkpoints.save(Checkpoint(2))
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.done == 1
