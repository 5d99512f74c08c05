"""Making a data set: refuse what cannot be, make the shards that are missing, then say what is there.

    synthetic.json   the request, and whether all of it is done: written first and last
    labels.csv       file, patient, label (npz shards hold these themselves)
    contact.png      a row of images for each class
    croissant.json   metadata for catalogues
    images/          a folder a shard; or shard-*.npz

A run that was stopped goes on where it was; a folder holds one request, ever.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from manikin import __version__
from manikin.common.errors import Misconfigured
from manikin.common.export.batch import Source
from manikin.common.export.contact import Tiles, contact_sheet, merge
from manikin.common.export.croissant import croissant
from manikin.common.export.picture import Picture
from manikin.common.export.request import Request, Shard, shards, shares_of
from manikin.common.export.shards import WRITERS, Workshop, one_thread
from manikin.common.files import storage_errors, write_atomically
from manikin.common.release import Release, load_release

MANIFEST = "synthetic.json"
WORKERS_PAY_OFF_S = 10.0  # a process takes seconds to start, and there is one core less for others


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Args:
        folder: the data set.
        request: what it holds.
        made: images made by this run.
        found: images that an earlier run had made.
    """

    folder: Path
    request: Request
    made: int
    found: int


def synthesize(
    release: Release,
    folder: Path,
    *,
    count: int,
    file_format: str,
    mix: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Draw a data set from a release, or go on with one.

    Args:
        release: from `verify_bundle` or `load_release`.
        folder: new, empty, or holding a part of this very request.
        count: number of images.
        file_format: one of `FORMATS`.
        mix: share of each class, summing to 1; equal shares if None.
        seed: the same seed gives the same files.
        workers: processes; the files do not depend on it.
        progress: called with the number of images just done.

    Raises:
        Misconfigured: the request makes no sense, the format cannot hold such images, or the folder holds
            something else.
        StorageFailure: the disk is full; finished shards are kept and another run goes on from them.
    """
    labels = release.spec.labels
    request = Request(release.digest, count, labels, shares_of(mix, labels), seed, file_format)
    source = Source(
        request,
        release.spec,
        Picture.of(release.facts.data),
        datetime.fromisoformat(release.facts.created),
        __version__,
    )
    WRITERS[file_format].check(source)
    pieces = shards(request, release.spec.channels * math.prod(release.spec.shape))
    workshop = Workshop(release.generator, source, folder)
    advance = progress or (lambda _: None)
    if _open_folder(folder, source):
        advance(count)
        return Outcome(folder, request, 0, count)
    found = sum(piece.stop - piece.start for piece in pieces if workshop.path(piece).exists())
    parts = []
    for piece, part in zip(pieces, _make_all(workshop, pieces, release.folder, workers), strict=True):
        parts.append(part)
        advance(piece.stop - piece.start)
    _finish(workshop, pieces, merge(parts), release.facts.study_name)
    return Outcome(folder, request, count - found, found)


def _manifest(source: Source, *, complete: bool) -> dict[str, Any]:
    return {
        "schema": 1,
        "complete": complete,
        "request": source.request.to_dict(),
        "values": WRITERS[source.request.format].values(source),
        "spacing_mm": source.picture.spacing_mm,
        "versions": {"manikin": source.code_version, "torch": torch.__version__},
    }


def _open_folder(folder: Path, source: Source) -> bool:
    """Claim a new folder for the request, or find it claimed by the same; True if everything is done.

    Raises:
        Misconfigured: it holds another request, or other files.
    """
    path, wanted = folder / MANIFEST, _manifest(source, complete=False)
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Misconfigured(f"{folder} holds other files.", "", "Choose a new folder with --out.")
        with storage_errors(folder):
            _write_json(path, wanted)
        return False
    try:
        present = json.loads(path.read_bytes())
        complete = bool(present.pop("complete"))
        del wanted["complete"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Misconfigured(f"{MANIFEST} in {folder} is damaged.", "", "Choose a new folder with --out.") from None
    if present != json.loads(json.dumps(wanted)):
        changed = ", ".join(_differences(present, wanted)) or "its form"
        raise Misconfigured(
            f"{folder} holds another data set.",
            f"What differs: {changed}.",
            "Choose a new folder with --out, or repeat the earlier command to go on with it.",
        )
    return complete


def _differences(present: Any, wanted: dict[str, Any]) -> Iterator[str]:
    for section in ("request", "versions"):
        old = present.get(section) if isinstance(present.get(section), dict) else {}
        yield from (key for key, value in wanted[section].items() if old.get(key) != json.loads(json.dumps(value)))


def _make_all(workshop: Workshop, pieces: list[Shard], bundle: Path, workers: int) -> Iterator[Tiles]:
    """Every shard in order; the first one here, to learn whether more processes are worth their start."""
    started = time.monotonic()
    with one_thread():
        yield workshop.make(pieces[0])
    rest = pieces[1:]
    if workers > 1 and (time.monotonic() - started) * len(rest) > WORKERS_PAY_OFF_S:
        yield from _make_apart(workshop, rest, bundle, min(workers, len(rest)))
    else:
        with one_thread():
            yield from map(workshop.make, rest)


def _make_apart(workshop: Workshop, pieces: list[Shard], bundle: Path, workers: int) -> Iterator[Tiles]:
    arguments = (bundle, workshop.source, workshop.folder)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, arguments) as pool:
        try:
            yield from pool.map(_work, pieces)
        except BrokenProcessPool:
            raise Misconfigured(
                "A worker process ended early.",
                "Most often there is too little memory.",
                "Run the same command again with --workers 1: finished parts are kept.",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_workshop: Workshop  # of a worker process


def _start_worker(bundle: Path, source: Source, folder: Path) -> None:
    global _workshop
    torch.set_num_threads(1)
    release = load_release(bundle)
    assert release.digest == source.request.release_digest
    _workshop = Workshop(release.generator, source, folder)


def _work(shard: Shard) -> Tiles:
    return _workshop.make(shard)


def _finish(workshop: Workshop, pieces: list[Shard], found: Tiles, name: str) -> None:
    """Everything that is written once, after the last shard."""
    folder, source = workshop.folder, workshop.source
    labels = None if source.request.format == "npz" else _labels_csv(workshop, pieces)
    if labels is not None:
        write_atomically(folder / "labels.csv", labels)
    write_atomically(folder / "contact.png", contact_sheet(found, source.spec.labels))
    write_atomically(folder / "croissant.json", croissant(source, name, labels))
    _write_json(folder / MANIFEST, _manifest(source, complete=True))


def _labels_csv(workshop: Workshop, pieces: list[Shard]) -> bytes:
    """One row a file, as `manikin hospital import` reads it."""
    source, text = workshop.source, io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "patient", "label"))
    for piece in pieces:
        place = workshop.path(piece).relative_to(workshop.folder).as_posix()
        for index in range(piece.start, piece.stop):
            label = source.spec.labels[int(workshop.classes[index])]
            for name in workshop.writer.names(source, index):
                rows.writerow((f"{place}/{name}", source.request.patient(index), label))
    return text.getvalue().encode()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")
