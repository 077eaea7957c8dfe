"""Failures of one image are recorded; those of all images end the run."""

from pathlib import Path

import pytest

from vit_interactions import UnsupportedModelError
from vit_interactions.images.failures import IMAGE_ERRORS, recorded_failure
from vit_interactions.utilities.files import WriteError


@pytest.mark.parametrize("kind", IMAGE_ERRORS)
def test_errors_of_an_image_are_recorded(kind: type[Exception]) -> None:
    failed = {"other.png": "kept"}
    with recorded_failure(failed, Path("image.png")):
        raise kind("broken")
    assert list(failed) == ["other.png", "image.png"]
    assert "broken" in failed["image.png"]


@pytest.mark.parametrize("kind", [UnsupportedModelError, WriteError, KeyboardInterrupt, TypeError])
def test_errors_of_all_images_are_raised(kind: type[BaseException]) -> None:
    failed: dict[str, str] = {}
    with pytest.raises(kind), recorded_failure(failed, Path("image.png")):
        raise kind("broken")
    assert not failed


def test_success_records_nothing() -> None:
    failed: dict[str, str] = {}
    with recorded_failure(failed, Path("image.png")):
        pass
    assert not failed
