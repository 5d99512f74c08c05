"""Drawing and writing one shard: a shard is on disk whole or not at all, and drawn again gives the same bytes.

The bytes are the same for the same release, request and shard on the same versions of the libraries, whatever was
drawn before, in whichever process. Across processors or versions of torch the last bits of a float may differ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from manikin.common.errors import BadData
from manikin.common.export import dicom, nifti, npz, png
from manikin.common.export.batch import Batch, Source
from manikin.common.export.contact import Tiles, tiles
from manikin.common.export.request import Shard
from manikin.common.files import storage_errors, sync_folder, write_atomically
from manikin.common.generators.base import Generator
from manikin.common.images import Int64Array

WRITERS: dict[str, ModuleType] = {"nifti": nifti, "dicom": dicom, "png": png, "npz": npz}
CONTACT_IMAGES = 96  # the contact sheet shows images from the shards that hold the first of them


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums in one order, so that the number of cores does not move the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Workshop:
    """Makes the shards of one data set.

    Args:
        generator: the release's.
        source: what all images share.
        folder: where the data set goes.
    """

    def __init__(self, generator: Generator, source: Source, folder: Path) -> None:
        self.generator, self.source, self.folder = generator, source, folder
        self.writer = WRITERS[source.request.format]
        self.classes: Int64Array = source.request.classes()

    def path(self, shard: Shard) -> Path:
        """Where the shard lies: one archive, or a folder of images."""
        if self.source.request.format == "npz":
            return self.folder / f"shard-{shard.index:05d}.npz"
        return self.folder / "images" / f"{shard.index:05d}"

    def make(self, shard: Shard) -> Tiles:
        """Write the shard unless it is there; give back tiles for the contact sheet if it holds early images.

        Raises:
            BadData: the generator drew something that is not finite.
            StorageFailure: the disk is full or not writable; nothing of this shard is left.
        """
        present, shown = self.path(shard).exists(), shard.start < CONTACT_IMAGES
        if present and not shown:
            return {}
        batch = self._draw(shard)
        if not present:
            self._write(shard, self.writer.encode(self.source, batch))
        return tiles(batch) if shown else {}

    def _draw(self, shard: Shard) -> Batch:
        classes = self.classes[shard.start : shard.stop]
        stream = torch.Generator().manual_seed(shard.seed(self.source.request))
        with torch.inference_mode():
            images = self.generator.sample(torch.from_numpy(classes), generator=stream)
        if not bool(torch.isfinite(images).all()):
            raise BadData("The generator drew an image that is not finite.", "", "Ask the coordinator for another one.")
        return Batch(shard.start, images.clamp(-1, 1).numpy().astype(np.float32), classes)

    def _write(self, shard: Shard, files: dict[str, bytes]) -> None:
        path = self.path(shard)
        if self.source.request.format == "npz":
            (content,) = files.values()
            write_atomically(path, content)
            return
        staging = path.with_name(f".{path.name}.partial")
        with storage_errors(path):
            shutil.rmtree(staging, ignore_errors=True)
            try:
                for name, content in files.items():
                    (staging / name).parent.mkdir(parents=True, exist_ok=True)
                    (staging / name).write_bytes(content)
                os.sync()  # once a shard: a thousand small files are synced one by one in minutes
                staging.rename(path)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            sync_folder(path.parent)
