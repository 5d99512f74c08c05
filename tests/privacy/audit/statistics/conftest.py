"""Known answers from outside the repository, where they are at hand."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def vectors(repository: Path) -> dict[str, Any]:
    """Answers on which two other implementations agreed; tests of them skip where the folder is absent."""
    data = Path(os.environ.get("MANIKIN_DATA", repository.parent / "shared" / "data"))
    path = data.parent / "vectors" / "audit_statistics.json"
    if not path.is_file():
        pytest.skip(f"no known answers at {path}: set MANIKIN_DATA to the folder beside theirs")
    return json.loads(path.read_text())
