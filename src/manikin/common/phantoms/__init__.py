"""Phantoms: simulated scans of bodies that never were, for demos, pre-training and feature extractors.

An anatomical model with random shape, tissue contrast and findings (`anatomy`, `chest`, `brain`), seen through a
scanner (`acquisition`), for a population (`populations`). After the idea of SynthSeg: randomise contrast and
acquisition beyond what any one hospital has, and use no real image (Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

from manikin.common.phantoms.anatomy import BrainAnatomy, ChestAnatomy, Scanner
from manikin.common.phantoms.populations import HOSPITALS, KINDS, Population, finding_names, phantom_for, population
from manikin.common.phantoms.simulation import Phantoms, simulate

__all__ = [
    "HOSPITALS",
    "KINDS",
    "BrainAnatomy",
    "ChestAnatomy",
    "Phantoms",
    "Population",
    "Scanner",
    "finding_names",
    "phantom_for",
    "population",
    "simulate",
]
