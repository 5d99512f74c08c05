"""What tests of the hospital's side share."""

import pytest

LIMITS = {
    "epsilon": 20.0,
    "delta": 1e-3,
    "units": ["patient"],
    "patients_min": 10,
    "families": ["moments", "diffusion"],
    "shapes": [[8, 8]],
    "rounds_max": 10,
    "bytes_out_max": 10_000_000,
    "quorum_min": 1,
    "secure_sum_required": False,
    "audits": True,
}


@pytest.fixture
def policy_text():
    """A policy that pins nobody, wide enough for small studies; `policy_text(quorum_min=2)` changes a limit."""

    def write(**changes):
        limits = {k: str(v).lower() if isinstance(v, bool) else v for k, v in (LIMITS | changes).items()}
        return "\n".join(["schema = 1", "[limits]", *(f"{key} = {value}" for key, value in limits.items()), ""])

    return write
