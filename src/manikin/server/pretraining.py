"""What the coordinator does without any patient: simulated scans, pre-training, and taking over a release."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from manikin.common import generators as families
from manikin.common import phantoms
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.common.generators import Generator
from manikin.common.study import Data, PretrainStage
from manikin.common.windowing import by_percentiles


def prior_images(stage: PretrainStage, data: Data, *, progress: Callable[[int], None] | None = None) -> Tensor:
    """Simulated scans of the public population, float32 (count, channels, *shape) in [-1, 1].

    Where the study windows each scan by its own percentiles, so are these; a window in native units does not apply.
    """
    kind = stage.phantom or phantoms.phantom_for(data.modality)
    public = phantoms.population("public", kind)
    simulated = phantoms.simulate(
        public,
        shape=data.shape,
        count=stage.count,
        seed=stage.seed,
        spacing_mm=data.spacing_mm,
        progress=progress,
    )
    found = simulated.images
    if data.window_percentiles is not None:
        found = np.clip(2 * by_percentiles(found, data.window_percentiles) - 1, -1, 1)
    images = torch.from_numpy(found)
    return images.expand(-1, len(data.channels), *data.shape).contiguous()


def pretrain(
    generator: Generator, prior: Tensor, stage: PretrainStage, *, progress: Callable[[int], None] | None = None
) -> None:
    """Teach a generator anatomy, if its family learns by gradients; the result is kept in a cache.

    The cache holds nothing of any patient: its key is the digest of the simulated scans, the spec, the
    stage, and the code of the families.
    """
    if not hasattr(generator, "pretrain"):
        return
    file = _cache_file(generator, prior, stage)
    if file.exists():
        generator.load_state(load_file(file))
        return
    source = torch.Generator().manual_seed(stage.seed)
    generator.pretrain(prior, None, steps=stage.steps, generator=source, progress=progress)
    state = {name: tensor.detach().contiguous() for name, tensor in generator.state().items()}
    write_atomically(file, save_tensors(state))


def _cache_file(generator: Generator, prior: Tensor, stage: PretrainStage) -> Path:
    root = os.environ.get("MANIKIN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "manikin"
    key = hashlib.sha256(prior.numpy().tobytes())
    key.update(json.dumps([generator.spec.to_json(), stage.steps, stage.seed, torch.__version__]).encode())
    for module in sorted(Path(str(families.__file__)).parent.glob("*.py")):
        key.update(module.read_bytes())
    return Path(root) / "pretrain" / f"{key.hexdigest()}.safetensors"


def adapt(
    generator: Generator,
    released: Generator,
    prior: Tensor | None,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Carry a release's class statistics into the generator: post-processing, no patient is looked at.

    Raises:
        Misconfigured: the family takes nothing over from a release, or there is no pre-training to start from.
    """
    if prior is None or not hasattr(generator, "adapt"):
        raise Misconfigured(
            f"The release cannot be carried into the family {generator.spec.family!r}.",
            "It needs a pretrain stage before it, and a family that takes a release over.",
            "Add the stage, or release the generator's own family.",
        )
    source = torch.Generator().manual_seed(0)
    generator.adapt(released, prior, generator=source, progress=progress)
