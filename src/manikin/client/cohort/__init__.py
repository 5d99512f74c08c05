"""A hospital's own images: importing them, keeping them, and bringing them to what a study wants.

Start at `intake` for the import and at `cohort` for what the vault asks. Nothing here knows a network.
"""

from manikin.client.cohort.cohort import Cohort
from manikin.client.cohort.hospital import Hospital, create_hospital
from manikin.client.cohort.intake import import_source, take_in
from manikin.client.cohort.report import ImportReport
from manikin.client.cohort.sources import Source, open_source

__all__ = ["Cohort", "Hospital", "ImportReport", "Source", "create_hospital", "import_source", "open_source", "take_in"]
