"""DICOM headers: which files are images, what of a header an import needs, and which keywords identify a person.

Nothing of a header is stored but modality and spacing. The list of what was dropped follows the Basic
Application Level Confidentiality Profile (DICOM PS3.15, Annex E) by rule: the patient group, names, dates, times,
instance UIDs, free text, and the institutional keywords below.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from manikin.client.cohort.geometry import Slice
from manikin.client.cohort.native import UnusableError

NOT_SCANS = frozenset(
    {
        "SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "ECG", "HD", "AU",
        "PLAN", "FID", "RWV", "STAIN", "TEXTUREMAP", "ASMT", "M3D",
    }
)  # fmt: skip
PATIENT_GROUP = 0x0010
COSINE_TOLERANCE = 0.01
MAX_FRAMES = 20_000  # the longest CT series have some thousand
IDENTIFYING_VRS = frozenset({"PN", "DA", "TM", "DT", "LT", "ST", "UT"})
HARMLESS_UIDS = ("SOPClassUID", "TransferSyntaxUID", "ImplementationClassUID", "CodingSchemeUID", "ContextUID")
IDENTIFYING_KEYWORDS = frozenset(
    {
        "AccessionNumber", "AdmissionID", "DeviceSerialNumber", "FillerOrderNumberImagingServiceRequest",
        "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName", "IssuerOfPatientID",
        "OperatorIdentificationSequence", "PerformedStationName", "PerformedProcedureStepDescription",
        "PerformedProcedureStepID", "PlacerOrderNumberImagingServiceRequest", "ProtocolName",
        "RequestedProcedureDescription", "RequestedProcedureID", "RequestingService", "ScheduledProcedureStepID",
        "SeriesDescription", "ServiceEpisodeID", "StationName", "StudyDescription", "StudyID", "DetectorID",
        "PlateID", "CassetteID",
    }
)  # fmt: skip


def read_header(path: Path) -> Dataset | None:
    """A file's header without its pixels; None for a file that is not DICOM.

    Raises:
        UnusableError: the file calls itself DICOM and cannot be read.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError as error:
        if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            raise UnusableError("unreadable", "it is named as DICOM and is none") from error
        return None


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around every use of pydicom on a file that may be broken: quiet, and with one kind of error.

    pydicom's warnings and log lines quote header values, so none is shown; and a broken file makes it raise whatever
    it was doing.

    Raises:
        UnusableError: whatever was raised inside.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(_reason(error)) from error
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    words = str(error).lower()
    if "unable to decompress" in words or "not support" in words or isinstance(error, NotImplementedError):
        return "unsupported"
    cut = isinstance(error, EOFError) or "truncated" in words or "less than" in words
    return "truncated" if cut else "unreadable"


def is_image(header: Dataset) -> bool:
    """Whether the object is meant to hold a scan: not a report, an index, a segmentation or a dose.

    Raises:
        UnusableError: it is an image by its class and lacks what makes one.
    """
    if text(header, "Modality") in NOT_SCANS:
        return False
    if header.get("Rows") and header.get("Columns"):
        return True
    stored_as = str(header.get("SOPClassUID", "") or header.file_meta.get("MediaStorageSOPClassUID", ""))
    if "Image Storage" in pydicom.uid.UID(stored_as).name:
        raise UnusableError("truncated", "it has no image")
    return False


def check_header(header: Dataset) -> None:
    """Refuse what its header forbids.

    Raises:
        UnusableError: text is burnt into the pixels, or it is a scout image.
    """
    if text(header, "BurnedInAnnotation").upper() == "YES":
        raise UnusableError("burnt in")
    if "LOCALIZER" in [str(value).upper() for value in _several(header, "ImageType")]:
        raise UnusableError("localizer")


def slices(header: Dataset, path: Path) -> list[Slice]:
    """What the header says of each frame.

    Raises:
        UnusableError: an absurd number of frames.
    """
    frames = max(1, int(header.get("NumberOfFrames") or 1))
    if frames > MAX_FRAMES:
        raise UnusableError("unreadable", f"its header speaks of more than {MAX_FRAMES} frames")
    return [_slice(header, path, frame, alone=frames == 1) for frame in range(frames)]


def _slice(header: Dataset, path: Path, frame: int, *, alone: bool) -> Slice:
    measures = functional(header, frame, "PixelMeasuresSequence")
    plane = functional(header, frame, "PlaneOrientationSequence")
    place = functional(header, frame, "PlanePositionSequence")
    placed = alone or (plane is not header and place is not header)  # one position cannot place many frames
    spacing = _numbers(measures, "PixelSpacing", 2) or _numbers(header, "ImagerPixelSpacing", 2)
    patient_id = text(header, "PatientID")
    return Slice(
        file=path,
        frame=frame,
        series=(
            *(text(header, "StudyInstanceUID"), text(header, "SeriesInstanceUID") or str(path.parent), patient_id),
            *(str(header.Rows), str(header.Columns), text(header, "EchoNumbers")),
        ),
        patient_id=patient_id,
        modality=text(header, "Modality"),
        instance=(int(header.get("InstanceNumber") or 0), frame),
        spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        orientation=_orthonormal(_numbers(plane, "ImageOrientationPatient", 6)) if placed else None,
        position=_numbers(place, "ImagePositionPatient", 3) if placed else None,
    )


def functional(header: Dataset, frame: int, sequence: str) -> Dataset:
    """The functional group of a frame of an enhanced object; the header itself where there is none."""
    for keyword, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(keyword)
        if groups and index < len(groups) and groups[index].get(sequence):
            return groups[index][sequence].value[0]
    return header


def text(header: Dataset, keyword: str) -> str:
    """A header value as stripped text, "" where it is missing."""
    value = header.get(keyword)
    return "" if value is None else str(value).replace("\0", "").strip()


def _several(header: Dataset, keyword: str) -> list[Any]:
    value = header.get(keyword)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    values = _several(header, keyword)
    numbers = tuple(map(float, values))
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _orthonormal(cosines: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Direction cosines, or None where they are no right angle of unit vectors."""
    if cosines is None:
        return None
    axes = np.reshape(cosines, (2, 3))
    return cosines if np.allclose(axes @ axes.T, np.eye(2), atol=COSINE_TOLERANCE) else None


def identifying(header: Dataset) -> tuple[set[str], int]:
    """Keywords of identifying elements that are filled, nested ones included, and the number of private elements."""
    keywords: set[str] = set()
    private = 0
    for tag, filled in _elements(header):
        private += tag.is_private
        if filled and not tag.is_private and _identifies(tag):
            keywords.add(keyword_for_tag(tag))
    return keywords, private


def _elements(dataset: Dataset) -> Iterator[tuple[BaseTag, bool]]:
    """Tags and whether they are filled; values stay unparsed, which is ten times as fast."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset parses every element
        element = dataset.get_item(tag)
        yield tag, bool(element.value)
        if not tag.is_private and (element.VR or _vr(tag)) == "SQ":
            for item in dataset[tag].value or ():
                yield from _elements(item)


def _vr(tag: BaseTag) -> str:
    return dictionary_VR(tag) if keyword_for_tag(tag) else "UN"


def _identifies(tag: BaseTag) -> bool:
    keyword, vr = keyword_for_tag(tag), _vr(tag)
    if vr == "UI":
        return keyword.endswith("UID") and not keyword.endswith(HARMLESS_UIDS)
    return keyword != "" and (tag.group == PATIENT_GROUP or vr in IDENTIFYING_VRS or keyword in IDENTIFYING_KEYWORDS)
