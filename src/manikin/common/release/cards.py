"""The model card (Hugging Face layout) and the MONAI bundle metadata, both written from the same facts."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from manikin.common.generators.base import GeneratorSpec
from manikin.common.release.facts import PRIVACY_CARD_FILE, ReleaseFacts

# Names the fields below; nothing is fetched from it.
METADATA_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
PACKAGES = ("safetensors", "pydicom", "highdicom", "nibabel")

INTENDED_USE = (
    "Research and education: to share a synthetic variant of a cohort, to balance a data set, to pre-train or test "
    "algorithms. Not for diagnosis, and not as evidence about any patient."
)
LIMITS = (
    "Samples need not be anatomically possible, and rare findings are learned worst: noise that protects patients "
    "hides small groups. Whether samples help a task must be measured on real data of that task."
)


def model_card(spec: GeneratorSpec, facts: ReleaseFacts) -> str:
    """README.md: YAML front matter, then what the generator is, what it is for, and how to use it."""
    tags = ["medical", "synthetic-data", "differential-privacy", "federated-learning", _modality(facts).lower()]
    return f"""---
license: other
library_name: manikin
pipeline_tag: unconditional-image-generation
tags: {json.dumps(tags)}
---

# {facts.study_name}: a generator of synthetic images

{_description(spec, facts)}

| | |
|---|---|
| family | {spec.family} |
| modality | {_modality(facts)} |
| image | {spec.channels} channel(s), {" × ".join(map(str, spec.shape))} |
| spacing | {_spacing(facts)} |
| classes | {", ".join(map(escape_markdown, spec.labels))} |
| hospitals | {facts.hospitals} |
| guarantee | ε = {facts.epsilon:.4g}, δ = {facts.delta:.4g}, unit: {facts.unit}; see {PRIVACY_CARD_FILE} |
| made by | Manikin {facts.code_version}, {facts.created} |
| plan | sha256:{facts.plan_digest} |

## Intended use

{INTENDED_USE}

## Limits

{LIMITS}

## How to use

Check it against a trust file that you got by another way than this folder, then sample:

```
manikin release verify BUNDLE --trust trust.json
manikin synthesize BUNDLE --trust trust.json --count 1000 --format nifti --out synthetic
```

## Audit

{facts.audit_statement}
"""


def bundle_metadata(spec: GeneratorSpec, facts: ReleaseFacts) -> dict[str, Any]:
    """configs/metadata.json with the keys that the MONAI bundle specification requires."""
    return {
        "schema": METADATA_SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": "release"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in PACKAGES},
        "supported_apps": {},
        "name": facts.study_name,
        "task": "Class-conditional synthesis of medical images",
        "description": _description(spec, facts),
        "authors": f"A consortium of {facts.hospitals} hospital(s)",
        "copyright": "Held by the consortium",
        "intended_use": INTENDED_USE,
        "references": [f"plan sha256:{facts.plan_digest}"],
        "network_data_format": {"inputs": {"condition": _condition(spec)}, "outputs": {"image": _image(spec, facts)}},
    }


def escape_markdown(text: str) -> str:
    """A class name as it was written, on one line, whatever it contains."""
    return "".join(f"&#{ord(sign)};" if sign in "\r\n|<>&`*_[]\\" else sign for sign in text)


def _description(spec: GeneratorSpec, facts: ReleaseFacts) -> str:
    return (
        f"Draws {spec.spatial_dims}D {_modality(facts)} images of patients who do not exist. Trained by "
        f"{facts.hospitals} hospital(s) without sharing a scan, under differential privacy."
    )


def _modality(facts: ReleaseFacts) -> str:
    return str(facts.data.get("modality", "OT"))


def _spacing(facts: ReleaseFacts) -> str:
    spacing = facts.data.get("spacing_mm")
    return " × ".join(f"{s:g}" for s in spacing) + " mm" if spacing else "not stated: fields of view were resized"


def _condition(spec: GeneratorSpec) -> dict[str, Any]:
    return {
        "type": "condition",
        "format": "class index",
        "num_channels": 1,
        "spatial_shape": [],
        "dtype": "int64",
        "value_range": [0, len(spec.labels) - 1],
        "is_patch_data": False,
        "channel_def": {str(index): label for index, label in enumerate(spec.labels)},
    }


def _image(spec: GeneratorSpec, facts: ReleaseFacts) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": _modality(facts),
        "num_channels": spec.channels,
        "spatial_shape": list(spec.shape),
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": False,
        "channel_def": {str(index): f"channel {index}" for index in range(spec.channels)},
    }
