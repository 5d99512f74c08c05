"""The populations that phantoms come from: what pre-training sees, and three hospitals that it has never seen.

`public` is broad. Each hospital leaves it in its anatomy and in its scanner, and all three have a finding that
`public` lacks: whatever a generator shows of it, it learned from the hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from manikin.common.errors import Misconfigured
from manikin.common.phantoms.anatomy import BrainAnatomy, ChestAnatomy, Scanner
from manikin.common.phantoms.brain_findings import BRAIN_FINDINGS
from manikin.common.phantoms.chest_findings import CHEST_FINDINGS

KINDS = ("chest-xr", "brain-mr")
HOSPITALS = ("north", "south", "coast")
_MODALITIES = {"CR": "chest-xr", "DX": "chest-xr", "MR": "brain-mr", "CT": "brain-mr", "OT": "brain-mr"}
_FINDINGS = {"chest-xr": CHEST_FINDINGS, "brain-mr": BRAIN_FINDINGS}


@dataclass(frozen=True)
class Population:
    """Bodies, one scanner, and how often each finding occurs.

    Args:
        name: "public" or a hospital.
        kind: one of `KINDS`.
        anatomy: the ranges of the bodies.
        scanner: the ranges of the acquisition.
        findings: share of each finding; the order is the order of labels, the shares sum to 1.
    """

    name: str
    kind: str
    anatomy: ChestAnatomy | BrainAnatomy
    scanner: Scanner
    findings: Mapping[str, float]


def phantom_for(modality: str) -> str:
    """The kind of phantom nearest to a DICOM modality.

    Raises:
        Misconfigured: the modality has no phantom.
    """
    if modality not in _MODALITIES:
        raise Misconfigured(
            f"There is no phantom for modality {modality}.", "", f"Use one of {', '.join(sorted(_MODALITIES))}."
        )
    return _MODALITIES[modality]


def finding_names(kind: str) -> tuple[str, ...]:
    """All findings that can be simulated for a kind, "normal" first.

    Raises:
        Misconfigured: `kind` is not one of `KINDS`.
    """
    if kind not in _FINDINGS:
        raise Misconfigured(f"There is no phantom of kind {kind}.", "", f"Use one of {', '.join(KINDS)}.")
    return _FINDINGS[kind]


def population(name: str, kind: str) -> Population:
    """The population of that name.

    Raises:
        Misconfigured: there is no such population or kind.
    """
    finding_names(kind)
    table = _CHESTS if kind == "chest-xr" else _BRAINS
    if name not in table:
        raise Misconfigured(f"There is no population {name}.", "", f"Use one of {', '.join(table)}.")
    return table[name]


def _shares(**findings: float) -> Mapping[str, float]:
    return MappingProxyType(findings)


_CHEST_PUBLIC = ChestAnatomy(
    frame=(0.86, 1.32),
    aspect=(0.82, 1.18),
    taper=(0.0, 1.0),
    shift=0.12,
    tilt_deg=(-6.0, 6.0),
    wall=(0.08, 0.32),
    heart=(0.85, 1.28),
    inspiration=(-0.12, 0.15),
    rib_slope=(0.15, 0.55),
    bone=(0.5, 1.2),
    vessels=(0.35, 1.0),
    lung_density=(0.2, 0.42),
    breast=(0.0, 0.22),
    arms_down=0.6,
    devices=0.12,
)

_CHESTS: dict[str, Population] = {
    "public": Population(
        "public",
        "chest-xr",
        _CHEST_PUBLIC,
        Scanner(
            name="many devices",
            blur_px=(0.3, 1.0),
            noise=(0.0, 0.025),
            bias=(0.0, 0.12),
            veil=(0.05, 0.6),
            gamma=(0.7, 1.3),
            contrast=(0.45, 1.05),
            brightness=(0.42, 0.62),
            sharpen=(0.0, 0.4),
            collimated=0.1,
        ),
        _shares(normal=0.4, pneumonia=0.4, nodule=0.1, cardiomegaly=0.1),
    ),
    "north": Population(
        "north",
        "chest-xr",
        ChestAnatomy(
            frame=(0.92, 1.02),
            aspect=(0.7, 0.8),
            taper=(0.6, 1.0),
            shift=0.08,
            tilt_deg=(-5.0, 5.0),
            wall=(0.06, 0.14),
            heart=(1.1, 1.3),
            inspiration=(-0.12, 0.06),
            rib_slope=(0.08, 0.2),
            bone=(0.35, 0.6),
            vessels=(0.4, 0.8),
            lung_density=(0.22, 0.34),
            breast=(0.0, 0.02),
            arms_down=0.2,
            devices=0.0,
        ),
        Scanner(
            name="children's hospital, computed radiography",
            blur_px=(1.05, 1.4),
            noise=(0.01, 0.03),
            bias=(0.02, 0.08),
            veil=(0.2, 0.5),
            gamma=(0.62, 0.74),
            contrast=(0.75, 0.95),
            brightness=(0.45, 0.55),
        ),
        _shares(normal=0.5, pneumonia=0.43, effusion=0.07),
    ),
    "south": Population(
        "south",
        "chest-xr",
        ChestAnatomy(
            frame=(1.02, 1.2),
            aspect=(1.2, 1.34),
            taper=(0.0, 0.25),
            shift=0.06,
            tilt_deg=(-3.0, 3.0),
            wall=(0.15, 0.3),
            heart=(0.8, 0.95),
            inspiration=(0.06, 0.2),
            rib_slope=(0.4, 0.65),
            bone=(0.65, 0.95),
            vessels=(0.6, 1.1),
            lung_density=(0.18, 0.28),
            breast=(0.05, 0.25),
            arms_down=0.3,
            devices=0.0,
        ),
        Scanner(
            name="clinic, flat panel with strong edge enhancement",
            blur_px=(0.2, 0.35),
            noise=(0.005, 0.015),
            bias=(0.0, 0.04),
            veil=(0.0, 0.1),
            gamma=(1.15, 1.35),
            contrast=(0.75, 0.95),
            brightness=(0.46, 0.54),
            sharpen=(0.42, 0.6),
        ),
        _shares(normal=0.55, pneumonia=0.4, effusion=0.05),
    ),
    "coast": Population(
        "coast",
        "chest-xr",
        ChestAnatomy(
            frame=(1.0, 1.15),
            aspect=(0.85, 1.0),
            taper=(0.1, 0.5),
            shift=0.14,
            tilt_deg=(6.5, 12.0),
            wall=(0.28, 0.4),
            heart=(1.1, 1.35),
            inspiration=(-0.22, -0.06),
            rib_slope=(0.3, 0.5),
            bone=(0.5, 0.8),
            vessels=(0.7, 1.2),
            lung_density=(0.24, 0.36),
            breast=(0.0, 0.25),
            arms_down=0.9,
            devices=0.3,
        ),
        Scanner(
            name="intensive care, mobile unit",
            blur_px=(0.7, 1.1),
            noise=(0.026, 0.04),
            bias=(0.14, 0.22),
            veil=(0.3, 0.6),
            gamma=(0.9, 1.1),
            contrast=(0.75, 0.95),
            brightness=(0.5, 0.62),
        ),
        _shares(normal=0.42, pneumonia=0.5, effusion=0.08),
    ),
}

_BRAIN_PUBLIC = BrainAnatomy(
    size=(0.88, 1.08),
    width=(0.92, 1.08),
    height=(0.94, 1.06),
    level_mm=(-35.0, 52.0),
    tilt_deg=(-8.0, 8.0),
    shift_mm=8.0,
    scalp_mm=(3.0, 6.5),
    skull_mm=(4.5, 8.0),
    sulci_mm=(0.8, 2.6),
    folds_mm=(14.0, 21.0),
    ventricles=(0.7, 1.4),
    t1_weight=(0.0, 1.0),
    contrast_jitter=0.12,
)

_BRAINS: dict[str, Population] = {
    "public": Population(
        "public",
        "brain-mr",
        _BRAIN_PUBLIC,
        Scanner(
            name="many devices",
            blur_px=(0.25, 0.8),
            noise=(0.003, 0.03),
            bias=(0.0, 0.18),
            veil=(0.0, 0.0),
            gamma=(0.8, 1.3),
            contrast=(0.65, 1.0),
            brightness=(0.5, 0.5),
        ),
        _shares(normal=0.45, tumour=0.35, lesions=0.1, atrophy=0.1),
    ),
    "north": Population(
        "north",
        "brain-mr",
        BrainAnatomy(
            size=(0.78, 0.87),
            width=(0.98, 1.1),
            height=(0.96, 1.04),
            level_mm=(0.0, 40.0),
            tilt_deg=(-6.0, 6.0),
            shift_mm=6.0,
            scalp_mm=(2.5, 4.0),
            skull_mm=(2.5, 4.2),
            sulci_mm=(0.5, 1.0),
            folds_mm=(13.0, 17.0),
            ventricles=(0.5, 0.8),
            t1_weight=(0.0, 0.25),
            contrast_jitter=0.06,
        ),
        Scanner(
            name="children's hospital, 1.5 tesla, thick slices",
            blur_px=(0.82, 1.1),
            noise=(0.012, 0.028),
            bias=(0.02, 0.1),
            veil=(0.0, 0.0),
            gamma=(0.66, 0.79),
            contrast=(0.7, 0.85),
            brightness=(0.5, 0.5),
        ),
        _shares(normal=0.55, tumour=0.38, stroke=0.07),
    ),
    "south": Population(
        "south",
        "brain-mr",
        BrainAnatomy(
            size=(0.95, 1.05),
            width=(0.84, 0.92),
            height=(1.0, 1.08),
            level_mm=(5.0, 45.0),
            tilt_deg=(-4.0, 4.0),
            shift_mm=5.0,
            scalp_mm=(4.0, 7.0),
            skull_mm=(5.0, 8.0),
            sulci_mm=(1.0, 2.0),
            folds_mm=(15.0, 20.0),
            ventricles=(0.8, 1.2),
            t1_weight=(0.0, 0.1),
            contrast_jitter=0.05,
        ),
        Scanner(
            name="clinic, 3 tesla with a strong coil profile",
            blur_px=(0.2, 0.35),
            noise=(0.002, 0.01),
            bias=(0.2, 0.3),
            veil=(0.0, 0.0),
            gamma=(1.25, 1.5),
            contrast=(0.9, 1.05),
            brightness=(0.5, 0.5),
        ),
        _shares(normal=0.5, tumour=0.45, stroke=0.05),
    ),
    "coast": Population(
        "coast",
        "brain-mr",
        BrainAnatomy(
            size=(0.92, 1.05),
            width=(0.94, 1.04),
            height=(0.94, 1.02),
            level_mm=(0.0, 40.0),
            tilt_deg=(8.5, 14.0),
            shift_mm=12.0,
            scalp_mm=(5.0, 10.0),
            skull_mm=(5.0, 9.0),
            sulci_mm=(2.7, 3.8),
            folds_mm=(13.0, 17.0),
            ventricles=(1.45, 2.0),
            t1_weight=(0.1, 0.3),
            contrast_jitter=0.08,
        ),
        Scanner(
            name="old people's clinic, 1 tesla",
            blur_px=(0.6, 0.9),
            noise=(0.04, 0.06),
            bias=(0.05, 0.15),
            veil=(0.0, 0.0),
            gamma=(0.9, 1.1),
            contrast=(0.75, 0.95),
            brightness=(0.5, 0.5),
        ),
        _shares(normal=0.52, tumour=0.4, stroke=0.08),
    ),
}
