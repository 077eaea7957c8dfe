"""Fixtures for tests of the gallery."""

import os

import pytest

from tests.helpers.quick_gallery import explained
from vit_interactions.gallery import run as gallery_run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace models and figures by fakes."""
    monkeypatch.setattr(gallery_run, "explain_image", explained)
    monkeypatch.setattr(gallery_run, "read_image", lambda path: path)
    monkeypatch.setattr(gallery_run, "prepare", lambda image, model: image)
    monkeypatch.setattr(gallery_run, "describe_model", lambda model: {"weights": "0"})
    monkeypatch.setattr(gallery_run, "versions", dict)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
