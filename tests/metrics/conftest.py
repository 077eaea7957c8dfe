"""Quantus, imported once without its warnings."""

import warnings
from typing import Any

import pytest


@pytest.fixture
def quantus() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")
