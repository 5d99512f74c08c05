"""labels.csv: which label, patient and site a file has. Columns `file,label[,patient][,site]`, in any order.

For DICOM, `file` may also be a SeriesInstanceUID or a PatientID. A row that names nothing is refused before
anything is imported: a misspelt path must not cost a hospital its labels silently.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from manikin.client.cohort.native import UNLABELLED
from manikin.common.errors import BadData, Misconfigured

SHOWN = 3


@dataclass(frozen=True)
class Entry:
    """One row, and the line of the file that it stands in."""

    label: str
    patient_id: str | None = None
    site: str = ""
    line: int = field(default=0, compare=False)


class Labels:
    """The rows of a labels.csv, by what they name.

    Args:
        entries: name (path relative to the source, series or patient) to entry.
        has_patients: whether the file has a `patient` column.
        given: False for `Labels.none()`, where there is no file at all.
    """

    def __init__(self, entries: dict[str, Entry], *, has_patients: bool, given: bool = True) -> None:
        self._entries, self.has_patients, self.given = entries, has_patients, given

    @classmethod
    def none(cls) -> Labels:
        """No labels.csv: every image is unlabelled, unless its source says more."""
        return cls({}, has_patients=False, given=False)

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read a labels.csv (UTF-8, comma or semicolon).

        Raises:
            Misconfigured: there is no such file.
            BadData: it is not text, lacks a column, has an empty field, or names something twice with two labels.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (FileNotFoundError, IsADirectoryError):
            raise Misconfigured(f"There is no labels file {path}.", "", "Give the path of a CSV file.") from None
        except UnicodeDecodeError:
            raise BadData(f"{path.name} is not UTF-8 text.", "", "Save it as CSV in UTF-8.") from None
        delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
        columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        _check_columns(path, columns)
        reader.fieldnames = columns
        try:
            entries = _entries(path, reader)
        except csv.Error as error:
            raise BadData(f"{path.name} is not CSV.", f"Line {reader.line_num}: {error}.", "Correct it.") from None
        return cls(entries, has_patients="patient" in columns)

    def find(self, *names: str) -> Entry | None:
        """The entry of the first of these names that has one."""
        return next((self._entries[name] for name in names if name in self._entries), None)

    def label(self, *names: str) -> str:
        """The label of the first of these names that has one, or "unlabelled"."""
        entry = self.find(*names)
        return entry.label if entry else UNLABELLED

    def check_all_found(self, names: Iterable[str]) -> None:
        """Refuse rows that name nothing.

        Raises:
            BadData: with how many there are, and the lines of the first few; what they say may be a patient's name.
        """
        missing = sorted(self._entries[name].line for name in set(self._entries) - set(names))
        if not missing:
            return
        shown = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise BadData(
            f"{len(missing)} of {len(self._entries)} rows of the labels file name no file of the source: line {shown}.",
            "Paths are relative to the source folder.",
            "Correct or remove these rows; nothing was imported.",
        )


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in ("file", "label") if name not in columns]
    if missing:
        raise BadData(
            f"{path.name} has no column {' and no column '.join(missing)}.",
            "Its first line must name the columns.",
            "Write file,patient,label[,site] in the first line.",
        )


def _entries(path: Path, reader: csv.DictReader[str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for row in reader:
        values = {key: (value or "").strip() for key, value in row.items() if isinstance(value, str | None)}
        if not any(values.values()):
            continue
        name = _normalised(values["file"])
        if not name or ("patient" in values and not values["patient"]):
            raise BadData(
                f"{path.name}, line {reader.line_num}: file and patient must not be empty.", "", "Complete the line."
            )
        entry = Entry(values["label"] or UNLABELLED, values.get("patient"), values.get("site", ""), reader.line_num)
        if entries.setdefault(name, entry) != entry:
            raise BadData(
                f"{path.name}, line {reader.line_num}: this file stands in an earlier line with other values.",
                "One file has one label and one patient.",
                "Keep one of the lines.",
            )
    return entries


def _normalised(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/"))) if name else ""
