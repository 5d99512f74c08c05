"""Croissant 1.0 metadata, so that catalogues and loaders of machine-learning data understand the folder.

Benjelloun et al. 2024, http://mlcommons.org/croissant/1.0; the `rai` terms say that nothing was collected from people.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from manikin.common.export.batch import Source

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
FILES = {
    "nifti": ("application/gzip", "images/*/*.nii.gz"),
    "dicom": ("application/dicom", "images/**/*.dcm"),
    "png": ("image/png", "images/*/*.png"),
    "npz": ("application/zip", "shard-*.npz"),
}


def croissant(source: Source, name: str, labels_csv: bytes | None) -> bytes:
    """The metadata of a finished data set.

    Args:
        source: what all images share.
        name: the study's name.
        labels_csv: content of labels.csv, or None where labels are inside the files.
    """
    request = source.request
    encoding, pattern = FILES[request.format]
    files = {
        "@type": "cr:FileSet",
        "@id": "images",
        "name": "images",
        "encodingFormat": encoding,
        "includes": pattern,
    }
    metadata: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{name}-synthetic",
        "description": (
            f"{request.count} synthetic images of modality {source.picture.modality}, drawn with seed {request.seed} "
            f"from the release sha256:{request.release_digest}. No image shows a patient."
        ),
        "version": "1.0.0",
        "datePublished": source.released.date().isoformat(),
        "creator": {"@type": "sc:Organization", "name": "The consortium that signed the release"},
        "isLiveDataset": False,
        "rai:dataCollectionType": ["Synthetic"],
        "rai:personalSensitiveInformation": "None: no image shows a patient. See the release's privacy card.",
        "distribution": [files] + ([_labels_file(labels_csv)] if labels_csv else []),
    }
    if labels_csv:
        metadata["recordSet"] = [_records()]
    return json.dumps(metadata, indent=2, ensure_ascii=False).encode() + b"\n"


def _labels_file(content: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": "labels.csv",
        "name": "labels.csv",
        "contentUrl": "labels.csv",
        "encodingFormat": "text/csv",
        "contentSize": f"{len(content)} B",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _records() -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"labels/{column}",
            "name": column,
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": "labels.csv"}, "extract": {"column": column}},
        }
        for column in ("file", "patient", "label")
    ]
    return {"@type": "cr:RecordSet", "@id": "labels", "name": "labels", "field": fields}
