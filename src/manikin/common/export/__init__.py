"""Data sets of patients who do not exist, drawn from a release and written in the formats that people use."""

from manikin.common.export.request import FORMATS, Request, parse_mix
from manikin.common.export.synthesis import Outcome, synthesize

__all__ = ["FORMATS", "Outcome", "Request", "parse_mix", "synthesize"]
