"""Without it, every test file would build the digits again, and into the user's own cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder shared by the tests of one run; the first `load` builds into it."""
    return tmp_path_factory.mktemp("digits")
