"""Images and figures inside the page: tiles, and figures for light and dark."""

import base64

import matplotlib

from tests.helpers.compared import Compared
from vit_interactions.compare.report.embedded import themed, tile
from vit_interactions.compare.report.figures import (
    ranking_figure,
)


def test_a_tile_holds_the_image_and_patches_beyond_it() -> None:
    # By hand: an image of 90 x 90, patches from (-15, 5) to (105, 85): the canvas is 120 x 90.
    found = tile((90, 90), (-15, 5, 105, 85), [(0, 0, 45, 90)])
    assert found.aspect == 1.3333
    assert found.image == (12.5, 0, 75, 100)
    assert found.patches == (0, 5.556, 100, 88.889)
    assert found.objects == ((12.5, 0, 37.5, 100),)


def test_a_figure_for_the_night_has_light_text() -> None:
    picture = themed(lambda: ranking_figure(Compared(), "vit", "insertion"), "a ranking")
    day, night = (base64.b64decode(uri.split(",")[1]).decode() for uri in (picture.light, picture.dark))
    assert "#22252b" in day
    assert "#dddad4" not in day
    assert "#dddad4" in night
    assert "#22252b" not in night
    assert picture.width == round(96 * 3.9)
    assert matplotlib.rcParams["text.color"] == "black"  # as it was
