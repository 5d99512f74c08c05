"""What the headers of a DICOM folder say, before a pixel is decoded."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from manikin.client.cohort import headers
from manikin.client.cohort.geometry import Slice
from manikin.client.cohort.native import UnusableError
from manikin.client.cohort.report import ImportReport

UNSTATED_TEXT = frozenset({"SC", "OT", "US", "XC", "ES", "GM"})  # modalities that often carry burnt-in text
HARMLESS = frozenset({"duplicate", "localizer"})  # a refusal that leaves its series whole


class Inventory:
    """The slices of a folder, file by file; refusals go into the report.

    `slices` are those that can be used; `broken` are the series that lack a slice because its file cannot be used.
    """

    def __init__(self, report: ImportReport) -> None:
        self.slices: list[Slice] = []
        self.broken: set[str] = set()
        self._report = report
        self._series = ""
        self._instances: set[tuple[str, str]] = set()
        self._dropped: set[str] = set()

    def add(self, path: Path, name: str) -> None:
        """Read one file's header."""
        self._series = ""
        try:
            with headers.reading():
                header = headers.read_header(path)
                if header is None or not headers.is_image(header):
                    self._report.non_images += 1
                else:
                    self._add_image(header, path)
        except UnusableError as error:
            self._report.refuse(name, error.reason, error.detail)
            if self._series and error.reason not in HARMLESS:
                self.broken.add(self._series)

    def _add_image(self, header: Dataset, path: Path) -> None:
        self._series = headers.text(header, "SeriesInstanceUID")
        keywords, private = headers.identifying(header)
        self._dropped |= keywords
        self._report.headers_dropped = sorted(self._dropped)
        self._report.private_tags_dropped += private
        headers.check_header(header)
        instance = headers.text(header, "PatientID"), headers.text(header, "SOPInstanceUID")
        if instance[1] and instance in self._instances:
            raise UnusableError("duplicate")
        self._instances.add(instance)
        self.slices += headers.slices(header, path)
        if headers.text(header, "Modality") in UNSTATED_TEXT and not headers.text(header, "BurnedInAnnotation"):
            self._report.note(
                "some images are of a kind that often has text burnt in (captures, ultrasound) and do not say whether "
                "they have: look at them before a study"
            )
