"""Real public data and models, which are not part of this project: tests use them where they lie beside the checkout."""

from pathlib import Path

import pytest


def shared(name: str) -> Path:
    """A folder of real data or models in ``../shared``; the test is skipped, saying so, where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in the folder shared/ beside this checkout")
    return folder
