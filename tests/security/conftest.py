"""The builder of result folders, for tests of what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analysis.conftest import StudyBuilder


@pytest.fixture
def study(tmp_path: Path) -> StudyBuilder:
    """An empty study's folder."""
    (tmp_path / "study").mkdir()
    return StudyBuilder(tmp_path / "study")
