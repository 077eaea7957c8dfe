"""Fixtures for tests of the gallery."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.quick_gallery import Figure
from vit_interactions.explain.settings import Settings
from vit_interactions.gallery import run as gallery_run
from vit_interactions.gallery.explanation import Explanation


def explained(model: object, image: Path, settings: Settings) -> Explanation:
    """Return a fake explanation that shows alpha and the content of the image."""
    value = settings.alpha + len(image.read_bytes())
    figures: Any = {"raw_attention": Figure(value), "field": Figure(-value)}
    return Explanation({"raw_attention": np.full((2, 2), value)}, figures, {"failed": {}, "unsupported": {}})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace models and figures by fakes."""
    monkeypatch.setattr(gallery_run, "explain_image", explained)
    monkeypatch.setattr(gallery_run, "read_image", lambda path: path)
    monkeypatch.setattr(gallery_run, "prepare", lambda image, model: image)
    monkeypatch.setattr(gallery_run, "describe_model", lambda model: {"weights": "0"})
    monkeypatch.setattr(gallery_run, "versions", dict)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
