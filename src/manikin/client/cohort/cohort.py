"""A cohort as the vault sees it: counts, and patients brought to a study's shape and split.

Promises: the same cohort and study give the same patients, images and order; whether a patient takes part, in which
part of the split and with which images, depends on that patient alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from manikin.client.cohort.hospital import Hospital
from manikin.client.cohort.intake import describe
from manikin.client.cohort.report import ImportReport
from manikin.client.cohort.store import Layout, Store
from manikin.common.errors import BadData
from manikin.common.images import Float32Array, Patient
from manikin.common.study import Data

PARTS = ("train", "holdout", "calibration")
CHUNK_VOXELS = 16_000_000  # 64 MB of float32 at a time
SAME_MODALITIES = {"DX": "CR"}
UNKNOWN_MODALITIES = ("", "OT")


class Cohort:
    """The images of one hospital. Open it with `Cohort.open`."""

    def __init__(self, hospital: Hospital, description: ImportReport) -> None:
        self._hospital, self._description = hospital, description

    @classmethod
    def open(cls, folder: Path) -> Cohort:
        """Open the cohort of the hospital in `folder`.

        Raises:
            Misconfigured: the folder is not a hospital.
            BadData: the cohort is empty or damaged.
        """
        hospital = Hospital.open(folder)
        description = ImportReport(hospital=hospital.name)
        with Store.open(hospital.database) as store:
            describe(store, description)
        if not description.images:
            raise BadData(
                f"The cohort of {hospital.name} is empty.", "", "Import scans with `manikin hospital import`."
            )
        return cls(hospital, description)

    @property
    def name(self) -> str:
        return self._hospital.name

    @property
    def secret(self) -> bytes:
        """The hospital's 32 secret bytes: for keyed hashes and random streams, never to be sent."""
        return self._hospital.secret

    @property
    def unit(self) -> Literal["patient", "image"]:
        """What the cohort can promise to protect: "image" where not every image came with a patient id."""
        return "patient" if self._description.unit == "patient" else "image"

    def counts(self) -> dict[str, Any]:
        """Exact counts, for the hospital's own eyes: patients, images, and both by label and by site."""
        d = self._description
        return {"unit": d.unit, "patients": d.patients, "images": d.images, "labels": d.labels, "sites": d.sites}

    def commitment(self) -> str:
        """Keyed digest of the images in the cohort, whatever the order of imports."""
        with Store.open(self._hospital.database) as store:
            return self._hospital.pseudonyms.commitment(layout.row_key for layout in store.layouts())

    def load(self, data: Data, *, progress: Callable[[int], None] | None = None) -> dict[str, list[Patient]]:
        """Every patient of the study, brought to its shape and split.

        Images under other labels or of another modality are left out; a volume in a 2D study becomes its axial slices.

        Args:
            data: the study's `[data]`.
            progress: told how many native images were just brought to shape.

        Returns:
            "train", "holdout" and "calibration", each sorted by the patients' keys.

        Raises:
            BadData: the cohort cannot be brought to the study's shape or channels, or has fewer than
                `data.patients_min` patients.
        """
        with Store.open(self._hospital.database) as store:
            layouts = store.layouts()
            chosen = [layout for layout in layouts if layout.label in data.labels and _fits(layout.modality, data)]
            _check_shapes(chosen, data)
            images = _brought_to_study(store, chosen, data, progress or (lambda _: None))
        patients = _patients(chosen, images, data)
        if len(patients) < data.patients_min:
            raise BadData(
                f"The study wants at least {data.patients_min} patients, and this cohort has {len(patients)} for it.",
                f"{len(layouts) - len(chosen)} of {len(layouts)} images have another label or modality.",
                "Import more patients, or ask for a study with a smaller minimum.",
            )
        split: dict[str, list[Patient]] = {part: [] for part in PARTS}
        for patient in patients:
            split[self._hospital.pseudonyms.part(patient.key, data.split)].append(patient)
        return split


def _fits(modality: str, data: Data) -> bool:
    """Whether an image may be in a study: of its modality, or of none that is known."""
    wanted = {SAME_MODALITIES.get(code, code) for code in (modality, data.modality)}
    return modality in UNKNOWN_MODALITIES or data.modality in UNKNOWN_MODALITIES or len(wanted) == 1


def _check_shapes(layouts: Sequence[Layout], data: Data) -> None:
    flat = sum(len(layout.shape) - 1 < data.spatial_dims for layout in layouts)
    if flat:
        raise BadData(
            "The study wants volumes, and the cohort cannot be brought to them.",
            f"{flat} of {len(layouts)} images with the study's labels are 2D.",
            "Give 2D images another label, or import a folder without them.",
        )
    channels = max(data.channels) + 1
    short = sum(layout.shape[0] < channels for layout in layouts)
    if short:
        raise BadData(
            f"The study wants channel {channels - 1}, and the cohort cannot be brought to it.",
            f"{short} of {len(layouts)} images with the study's labels have fewer channels.",
            "Ask for other channels in the study.",
        )


def _brought_to_study(
    store: Store, layouts: Sequence[Layout], data: Data, progress: Callable[[int], None]
) -> dict[str, Float32Array]:
    """Row key to float32 (m, c, *shape): images of one layout go through MONAI together."""
    from manikin.client.cohort.preprocessing import preprocess  # MONAI takes seconds to import

    images: dict[str, Float32Array] = {}
    for chunk in _chunks(layouts):
        keys = [layout.row_key for layout in chunk]
        stacked = np.stack([image.pixels for image in store.images(keys)])
        brought = preprocess(stacked, data, axes=chunk[0].axes, spacing_mm=chunk[0].spacing_mm)
        images.update(zip(keys, brought, strict=True))
        progress(len(chunk))
    return images


def _chunks(layouts: Sequence[Layout]) -> Iterator[list[Layout]]:
    groups: dict[tuple[object, ...], list[Layout]] = defaultdict(list)
    for layout in layouts:
        groups[layout.axes, layout.shape, layout.spacing_mm].append(layout)
    for (_, shape, _), group in groups.items():
        size = max(1, CHUNK_VOXELS // int(np.prod(shape)))  # type: ignore[call-overload]
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _patients(layouts: Sequence[Layout], images: dict[str, Float32Array], data: Data) -> list[Patient]:
    """One `Patient` for each key, sorted by key, its images sorted by row key; none without images."""
    rows: dict[str, list[Layout]] = defaultdict(list)
    for layout in layouts:
        if len(images[layout.row_key]):
            rows[layout.patient].append(layout)
    patients = []
    for key in sorted(rows):
        own = [images[layout.row_key] for layout in rows[key]]
        labels = [data.labels.index(layout.label) for layout in rows[key]]
        repeated = np.repeat(np.array(labels, np.int64), [len(image) for image in own])
        patients.append(Patient(key, np.concatenate(own), repeated, _site(rows[key])))
    return patients


def _site(layouts: Sequence[Layout]) -> str:
    """The site of most of a patient's images, the first by name among equals."""
    counts = Counter(layout.site for layout in layouts)
    return min(counts, key=lambda site: (-counts[site], site))
