"""The cohort on disk: one sqlite database of native images.

Promises: a batch is in the database whole or not at all, whenever the process dies; a row is named by keyed
hashes only. Not promised: the pixels are not encrypted; the folder's mode (0700) and the disk's own encryption
protect them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from manikin.client.cohort.native import UNLABELLED, Axes, NativeArray, NativeImage
from manikin.client.cohort.pseudonyms import Pseudonyms
from manikin.common.errors import BadData, Misconfigured, StorageFailure
from manikin.common.files import storage_errors

COMPRESSION_LEVEL = 1
LOCK_TIMEOUT_S = 10.0
SCHEMA = """
CREATE TABLE images (
    row_key TEXT PRIMARY KEY, patient TEXT NOT NULL, content TEXT NOT NULL, label TEXT NOT NULL,
    site TEXT NOT NULL, identified INTEGER NOT NULL, modality TEXT NOT NULL, axes TEXT NOT NULL,
    shape TEXT NOT NULL, dtype TEXT NOT NULL, spacing_mm TEXT, pixels BLOB NOT NULL, mask_dtype TEXT, mask BLOB
) STRICT;
CREATE INDEX by_patient ON images (patient, content);
CREATE INDEX by_content ON images (content, patient);
"""
COLUMNS = (
    "row_key, patient, content, label, site, identified, modality, axes, shape, dtype, spacing_mm, pixels, "
    "mask_dtype, mask"
)
Outcome = Literal["added", "present", "labelled"]


@dataclass(frozen=True, eq=False)
class Record:
    """One row of a cohort: an image of a patient under a label.

    Args:
        patient: keyed hash of the patient.
        content: keyed hash of the pixels.
        label, site: as the source says.
        identified: False where the source knew no patient, so that the image stands for one.
        image: the native image.
    """

    patient: str
    content: str
    label: str
    site: str
    identified: bool
    image: NativeImage


@dataclass(frozen=True)
class Layout:
    """What can be known of a row without its pixels."""

    row_key: str
    patient: str
    label: str
    site: str
    modality: str
    axes: Axes
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None


class Store:
    """An open cohort database. Use as a context manager."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def create(cls, path: Path) -> None:
        """Make an empty cohort, readable by its owner only; one that exists is left as it is."""
        with storage_errors(path), contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with cls.open(path) as store, database_errors():
            if not store._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'images'").fetchone():
                store._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the cohort at `path`.

        Raises:
            Misconfigured: there is none.
            BadData: it is damaged.
        """
        if not path.is_file():
            raise Misconfigured(
                "The hospital has no cohort.", "cohort/cohort.sqlite is missing.", "Restore the folder."
            )
        with database_errors():
            connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        return cls(connection)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, records: Sequence[Record], pseudonyms: Pseudonyms) -> list[Outcome]:
        """Add a batch in one transaction: all of it, or nothing.

        An image that came without a label takes the label that a later import knows; otherwise nothing that is
        stored ever changes.

        Returns:
            for each record "added", "labelled" (it was there, unlabelled) or "present" (it was there).

        Raises:
            StorageFailure: the disk is full; what earlier batches stored is kept.
        """
        with database_errors(), self._transaction():
            return [self._add(record, pseudonyms) for record in records]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _add(self, record: Record, pseudonyms: Pseudonyms) -> Outcome:
        execute = self._connection.execute
        query = "SELECT label FROM images WHERE patient = ? AND content = ?"
        labels = {label for (label,) in execute(query, (record.patient, record.content))}
        if record.label in labels or (labels and record.label == UNLABELLED):
            return "present"
        row_key = pseudonyms.row(record.patient, record.content, record.label)
        if UNLABELLED in labels:
            old = pseudonyms.row(record.patient, record.content, UNLABELLED)
            execute("UPDATE images SET row_key = ?, label = ? WHERE row_key = ?", (row_key, record.label, old))
            return "labelled"
        marks = ", ".join("?" * len(COLUMNS.split(",")))
        execute(f"INSERT INTO images ({COLUMNS}) VALUES ({marks})", (row_key, *_values(record)))  # noqa: S608
        return "added"

    def tally(self) -> list[tuple[str, str, str, int, bool]]:
        """(patient, label, site, images, identified) for each patient, label and site."""
        query = "SELECT patient, label, site, COUNT(*), MIN(identified) FROM images GROUP BY patient, label, site"
        with database_errors():
            return [(p, label, site, n, bool(known)) for p, label, site, n, known in self._connection.execute(query)]

    def shared_contents(self) -> int:
        """How many images have pixels that another patient has as well."""
        query = (
            "SELECT COUNT(*) FROM images WHERE content IN "
            "(SELECT content FROM images GROUP BY content HAVING COUNT(DISTINCT patient) > 1)"
        )
        with database_errors():
            return int(self._connection.execute(query).fetchone()[0])

    def several_labels(self) -> int:
        """How many images a patient has under more than one label."""
        query = "SELECT COUNT(*) FROM (SELECT 1 FROM images GROUP BY patient, content HAVING COUNT(DISTINCT label) > 1)"
        with database_errors():
            return int(self._connection.execute(query).fetchone()[0])

    def layouts(self) -> list[Layout]:
        """Every row without its pixels, in the order of the row keys."""
        query = "SELECT row_key, patient, label, site, modality, axes, shape, spacing_mm FROM images ORDER BY row_key"
        with database_errors():
            return [
                Layout(key, patient, label, site, modality, axes, tuple(json.loads(shape)), _spacing(spacing_mm))
                for key, patient, label, site, modality, axes, shape, spacing_mm in self._connection.execute(query)
            ]

    def images(self, row_keys: Iterable[str]) -> Iterator[NativeImage]:
        """The images of these rows, one after the other."""
        query = (
            "SELECT pixels, dtype, shape, axes, spacing_mm, modality, mask, mask_dtype FROM images WHERE row_key = ?"
        )
        for row_key in row_keys:
            with database_errors():
                row = self._connection.execute(query, (row_key,)).fetchone()
                if row is None:
                    raise BadData("An image has left the cohort while it was read.", "", "Run the command again.")
                yield _image(*row)


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turn what sqlite says into one clear sentence."""
    try:
        yield
    except (sqlite3.DatabaseError, zlib.error) as error:
        text = str(error)
        if "locked" in text:
            raise Misconfigured(
                "The cohort is in use.", "Another import is writing to it.", "Wait for it to end, then run again."
            ) from error
        if any(word in text for word in ("full", "disk I/O", "readonly", "unable to open")):
            raise StorageFailure(
                "The cohort could not be written.",
                f"The database answered: {text}.",
                "Free space, then run the same import again: what was imported is kept.",
            ) from error
        raise BadData("The cohort's database is damaged.", f"{text}.", "Restore it or import again.") from error


def _values(record: Record) -> tuple[Any, ...]:
    image = record.image
    spacing = None if image.spacing_mm is None else json.dumps(image.spacing_mm)
    mask = (None, None) if image.mask is None else (image.mask.dtype.str, _packed(image.mask))
    return (
        *(record.patient, record.content, record.label, record.site, int(record.identified)),
        *(image.modality, image.axes, json.dumps(image.pixels.shape), image.pixels.dtype.str, spacing),
        *(_packed(image.pixels), *mask),
    )


def _packed(array: NativeArray) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), COMPRESSION_LEVEL)


def _unpacked(packed: bytes, dtype: str, shape: tuple[int, ...]) -> NativeArray:
    return np.frombuffer(zlib.decompress(packed), np.dtype(dtype)).reshape(shape)


def _spacing(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(json.loads(text))


def _image(
    pixels: bytes, dtype: str, shape: str, axes: str, spacing_mm: str | None, modality: str, mask: Any, mask_dtype: Any
) -> NativeImage:
    size = tuple(json.loads(shape))
    unpacked_mask = None if mask is None else _unpacked(mask, mask_dtype, size[1:])
    return NativeImage(_unpacked(pixels, dtype, size), cast(Axes, axes), _spacing(spacing_mm), modality, unpacked_mask)
