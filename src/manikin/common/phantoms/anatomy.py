"""What varies between bodies and between scanners: the ranges that a population draws from."""

from __future__ import annotations

from dataclasses import dataclass

from manikin.common.phantoms.fields import Range


@dataclass(frozen=True)
class ChestAnatomy:
    """Ranges of a chest; lengths in units of half the inner width of the rib cage.

    Args:
        frame: half of the height and width that the image shows; below 1 the sides are cut off.
        aspect: height of the thorax over its width; small children have low, wide chests.
        taper: shape of the rib cage, 0 an adult's dome, 1 a small child's triangle.
        shift: largest displacement of the body in the frame.
        tilt_deg: rotation in the image plane.
        wall: soft tissue outside the rib cage.
        heart: size of the heart shadow, 1 for an adult's at full inspiration.
        inspiration: how far the diaphragm lies below its middle position.
        rib_slope: how far ribs fall from spine to side; low in children.
        bone: contrast of bone.
        vessels: contrast of hila and vessels.
        lung_density: share of soft tissue in a healthy lung.
        breast: extra soft tissue over the lower lungs.
        arms_down: share of patients with the arms beside the trunk.
        devices: share of patients with tubes or wires.
    """

    frame: Range
    aspect: Range
    taper: Range
    shift: float
    tilt_deg: Range
    wall: Range
    heart: Range
    inspiration: Range
    rib_slope: Range
    bone: Range
    vessels: Range
    lung_density: Range
    breast: Range
    arms_down: float
    devices: float


@dataclass(frozen=True)
class BrainAnatomy:
    """Ranges of a head; lengths in mm.

    Args:
        size: scale of the whole head, 1 for an average adult.
        width: breadth over length, relative to the average.
        height: height over length, relative to the average.
        level_mm: height of a 2D slice above the midpoint of the anterior commissure, towards the vertex.
        tilt_deg: nodding and turning of the head.
        shift_mm: largest displacement in the frame.
        scalp_mm: thickness of skin and fat.
        skull_mm: thickness of bone.
        sulci_mm: width of the fluid over and between the folds; wide with age.
        folds_mm: distance between folds.
        ventricles: size of the ventricles, 1 for a young adult.
        t1_weight: 0 is FLAIR contrast, 1 is T1 contrast.
        contrast_jitter: relative spread of each tissue's intensity around its sequence's.
    """

    size: Range
    width: Range
    height: Range
    level_mm: Range
    tilt_deg: Range
    shift_mm: float
    scalp_mm: Range
    skull_mm: Range
    sulci_mm: Range
    folds_mm: Range
    ventricles: Range
    t1_weight: Range
    contrast_jitter: float


@dataclass(frozen=True)
class Scanner:
    """Ranges of an acquisition: what one hospital's device does to every image.

    Args:
        name: for people.
        blur_px: standard deviation of the point spread at 64 pixels across, in such pixels; scaled with the shape.
        noise: standard deviation of noise at 64 pixels across, as share of the displayed range.
        bias: strength of the slow multiplicative field (coil profile, heel effect, uneven exposure).
        veil: scattered over direct radiation; MR ignores it.
        gamma: exponent of the display curve; above 1 darkens.
        contrast: displayed range used between the low and high percentile of an image.
        brightness: displayed value of the middle of that range, 0 black, 1 white.
        sharpen: strength of the edge enhancement that devices apply.
        collimated: share of images with a black border.
    """

    name: str
    blur_px: Range
    noise: Range
    bias: Range
    veil: Range
    gamma: Range
    contrast: Range
    brightness: Range
    sharpen: Range = (0.0, 0.0)
    collimated: float = 0.0
