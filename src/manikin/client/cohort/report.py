"""What an import did: the hospital's own record, printed as counts and saved with file names.

The saved report names refused files relative to the source. It stays in the hospital's folder: nothing here is
noised, and nothing of it may cross the wire.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from manikin.common.files import write_atomically

REASONS = {
    "unreadable": "the file could not be read",
    "truncated": "the file ends too early",
    "not finite": "it holds NaN or infinite values",
    "constant": "all its pixels are equal",
    "burnt in": "its header says that text is burnt into the pixels",
    "duplicate": "the same patient has the same image already in this source",
    "no patient": "nothing says which patient it belongs to",
    "localizer": "it is a scout image",
    "geometry": "its slices do not make a volume",
    "unsupported": "its kind of image is not supported",
    "too large": "it is larger than a cohort can hold",
}


@dataclass(frozen=True)
class Refusal:
    """A file (or the files of one series, named by one of them) that was not taken."""

    file: str
    reason: str
    detail: str = ""
    files: int = 1


@dataclass
class ImportReport:
    """Everything that a hospital engineer wants to know after an import.

    Args:
        kind: what the source was taken for.
        unit: "image" as soon as one image of the cohort came without a patient id.
        patients, images: in the cohort now; `labels` and `sites` split them.
        added, present, labelled: images of this source that are new, were there, or were there without a label.
        duplicates_across_patients: images of the cohort whose pixels another patient has too (kept: dropping one
            would let one patient's presence move another).
        several_labels: images of the cohort that one patient has under more than one label (kept under each).
        non_images: files that are no images, such as reports and index files.
        headers_dropped: keywords of identifying headers, none of which was stored.
    """

    kind: str = ""
    hospital: str = ""
    unit: str = "patient"
    patients: int = 0
    images: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    sites: dict[str, dict[str, int]] = field(default_factory=dict)
    added: int = 0
    present: int = 0
    labelled: int = 0
    duplicates_across_patients: int = 0
    several_labels: int = 0
    non_images: int = 0
    refused: list[Refusal] = field(default_factory=list)
    headers_dropped: list[str] = field(default_factory=list)
    private_tags_dropped: int = 0
    notes: list[str] = field(default_factory=list)

    def refuse(self, file: str, reason: str, detail: str = "", *, files: int = 1) -> None:
        """Count a file as refused; `reason` is a key of `REASONS`."""
        assert reason in REASONS, reason
        self.refused.append(Refusal(file, reason, detail, files))

    def note(self, text: str) -> None:
        """Something that a person should know; said once."""
        if text not in self.notes:
            self.notes.append(text)

    def refusals(self) -> dict[str, int]:
        """Refused files by reason, most frequent first."""
        counts: Counter[str] = Counter()
        for refusal in self.refused:
            counts[refusal.reason] += refusal.files
        return dict(counts.most_common())

    def summary(self) -> dict[str, Any]:
        """Counts only, for the last line of JSON: no file names."""
        return {**asdict(self), "refused": self.refusals()}

    def save(self, path: Path) -> None:
        """Write the whole report, file names included.

        Raises:
            StorageFailure: the disk is full; an older report stays.
        """
        content = {**asdict(self), "refused_by_reason": self.refusals()}
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(), mode=0o600)

    def lines(self) -> list[str]:
        """The report for a person."""
        unit = "" if self.unit == "patient" else " (no patient ids: every image counts as a patient)"
        lines = [
            f"{self.hospital}: {self.patients} patients, {self.images} images{unit}",
            f"This source ({self.kind}): {self.added} images added, {self.present} already there"
            + (f", {self.labelled} given their label" if self.labelled else ""),
        ]
        lines += [f"  {label}: {n['patients']} patients, {n['images']} images" for label, n in self.labels.items()]
        if len(self.sites) > 1:
            lines += [f"  site {site}: {n['patients']} patients" for site, n in self.sites.items()]
        lines += [f"Refused {count}: {reason} ({REASONS[reason]})" for reason, count in self.refusals().items()]
        optional = {
            f"Not images: {self.non_images} files": self.non_images,
            f"Kept, but other patients have the same pixels: {self.duplicates_across_patients} images":
                self.duplicates_across_patients,
            f"Kept under more than one label: {self.several_labels} images": self.several_labels,
            f"Identifying headers dropped: {', '.join(self.headers_dropped)}": self.headers_dropped,
            f"Private tags dropped: {self.private_tags_dropped}": self.private_tags_dropped,
        }  # fmt: skip
        return lines + [text for text, value in optional.items() if value] + [f"Note: {note}" for note in self.notes]
