"""The import itself: from a source into the cohort, batch by batch, with a report.

Promises: killing it leaves the batches that were finished, and the next import of the same source completes the
cohort; importing the same source again changes nothing. A patient id is hashed before anything is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from manikin.client.cohort.hospital import Hospital
from manikin.client.cohort.native import NativeImage, Scan, UnusableError, canonical
from manikin.client.cohort.pseudonyms import Pseudonyms
from manikin.client.cohort.report import ImportReport
from manikin.client.cohort.sources import Source, open_source
from manikin.client.cohort.store import Record, Store
from manikin.common.errors import BadData

BATCH_IMAGES = 256
BATCH_BYTES = 64 << 20


def import_source(
    path: Path,
    hospital: Path,
    *,
    labels: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import a folder or file into the hospital's cohort.

    Args:
        path: DICOM, NIfTI, BIDS or picture folder, or a `.npz`.
        hospital: the hospital's folder.
        labels: a labels.csv; by default the one in the folder, if there is one.
        progress: told how many units were just done; `open_source(path).total` is their sum.

    Raises:
        Misconfigured: no hospital, no source, or no labels file.
        BadData: not one patient could be imported, or the labels name files that do not exist.
        StorageFailure: the disk is full; what was imported is kept.
    """
    return take_in(open_source(path, labels), Hospital.open(hospital), progress=progress)


def take_in(source: Source, hospital: Hospital, *, progress: Callable[[int], None] | None = None) -> ImportReport:
    """Import an opened source; see `import_source`."""
    report = ImportReport(kind=source.kind, hospital=hospital.name)
    patients: set[str] = set()
    with Store.open(hospital.database) as store:
        scans = source.read(report, progress or (lambda _: None))
        for batch in _batches(_records(scans, hospital.pseudonyms, report)):
            for record, outcome in zip(batch, store.add(batch, hospital.pseudonyms), strict=True):
                patients.add(record.patient)
                report.added += outcome == "added"
                report.present += outcome == "present"
                report.labelled += outcome == "labelled"
        describe(store, report)
    report.save(hospital.report)
    if not patients:
        raise _nothing_imported(report)
    return report


def describe(store: Store, report: ImportReport) -> None:
    """Fill in what the whole cohort holds."""
    tally = store.tally()
    report.unit = "patient" if all(identified for *_, identified in tally) else "image"
    report.patients = len({patient for patient, *_ in tally})
    report.images = sum(images for *_, images, _ in tally)
    report.labels = _split((label, patient, images) for patient, label, _, images, _ in tally)
    report.sites = _split((site, patient, images) for patient, _, site, images, _ in tally if site)
    report.duplicates_across_patients = store.shared_contents()
    report.several_labels = store.several_labels()


def _split(rows: Iterator[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    patients: dict[str, set[str]] = {}
    images: Counter[str] = Counter()
    for name, patient, count in rows:
        patients.setdefault(name, set()).add(patient)
        images[name] += count
    return {name: {"patients": len(patients[name]), "images": images[name]} for name in sorted(patients)}


def _records(scans: Iterator[Scan], pseudonyms: Pseudonyms, report: ImportReport) -> Iterator[Record]:
    """Rows for the usable scans; an image that a patient has twice in this source is refused the second time."""
    seen: set[tuple[str, str, str]] = set()
    occurrences: Counter[str] = Counter()
    for scan in scans:
        try:
            pixels = canonical(scan.image.pixels)
        except UnusableError as error:
            report.refuse(scan.file, error.reason, error.detail)
            continue
        content = pseudonyms.content(pixels.dtype.str.encode(), str(pixels.shape).encode(), pixels.tobytes())
        if scan.patient_id is None:
            patient = pseudonyms.unidentified(content, occurrences[content])
            occurrences[content] += 1
        else:
            patient = pseudonyms.patient(scan.patient_id)
        if (patient, content, scan.label) in seen:
            report.refuse(scan.file, "duplicate")
            continue
        seen.add((patient, content, scan.label))
        old = scan.image
        image = NativeImage(pixels, old.axes, old.spacing_mm, old.modality, old.mask)
        yield Record(patient, content, scan.label, scan.site, scan.patient_id is not None, image)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += record.image.pixels.nbytes
        if len(batch) >= BATCH_IMAGES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _nothing_imported(report: ImportReport) -> BadData:
    reasons = [f"{count} refused ({reason})" for reason, count in report.refusals().items()]
    reasons += [f"{report.non_images} not images"] if report.non_images else []
    return BadData(
        "Nothing was imported: the source holds no usable scan of any patient.",
        f"Files: {', '.join(reasons) or 'none'}.",
        "cohort/import-report.json names each refused file and its reason.",
    )
