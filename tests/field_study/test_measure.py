"""Claims about an image whose fields are known, under each control."""

import math
from math import isnan, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.planted import SIZE, looking_model, painted
from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain import InteractionUncertainty, attention_sinks
from vit_interactions.field_study.measure import CLAIMS, CONTROLS, Target, average, evaluate_claims, measure_image
from vit_interactions.functional.null_models import distance_only, noise_like, shuffle_rows
from vit_interactions.functional.responsive_field import responsive_field

GRID = (4, 4)
INPUTS = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def rows_inside(*rows: int) -> Tensor:
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[list(rows)] = True
    return inside


def planted(inputs: Tensor) -> Tensor:
    """Return U in which the patches of row 0 matter to themselves only, and the corners to all other patches."""
    uncertainty = torch.zeros(1, 16, 16)
    uncertainty[0, 4:, [0, 3, 12, 15]] = 1.0
    return uncertainty


def plant(monkeypatch: pytest.MonkeyPatch, uncertainty: Tensor) -> None:
    layout = TokenLayout(prefix=1, rows=4, cols=4, readout="token", extent=(64, 64))
    monkeypatch.setattr(InteractionUncertainty, "compute", lambda self, inputs: (uncertainty, layout, None))


def test_planted_fields_are_found_and_only_on_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, planted(INPUTS))
    found = measure_image(
        sharp_vit(img_size=64), INPUTS, rows_inside(0), [rows_inside(2)], alphas=[48 / 256], beta=0.0, seed=0
    )
    real, other = found[48 / 256, "real"], found[48 / 256, "other_boxes"]
    # Fields of row 0 have one patch, all others 16.
    assert real["smaller_inside"] == 1
    assert real["size_difference"] == pytest.approx((1 - 16) / 16)
    assert real["size_auc"] == 1
    # On row 2: 16 inside; outside 4 of 1 and 8 of 16.
    assert other["smaller_inside"] == 0
    assert other["size_difference"] == pytest.approx((16 - (4 * 1 + 8 * 16) / 12) / 16)
    assert other["size_auc"] == pytest.approx(0.5 * 8 / 12)
    # The four central patches, rows 1 and 2: all 16 inside.
    center = found[48 / 256, "image_center"]
    assert center["size_difference"] == pytest.approx((16 - (4 * 1 + 8 * 16) / 12) / 16)
    # A field that covers the image has the direction from its patch to the image center; those of row 0 have none.
    assert center["tendency_cosine"] == pytest.approx(1)
    # The object's center is (1.5, 0), that of the image (1.5, 1.5).
    pairs = [((1.5 - x, 1.5 - y), (1.5 - x, -y)) for x in range(4) for y in (1, 2, 3)]
    cosines = [(a * c + b * d) / (math.hypot(a, b) * math.hypot(c, d)) for (a, b), (c, d) in pairs]
    assert real["tendency_cosine"] == pytest.approx(sum(cosines) / 12)
    assert found[48 / 256, "noise_image"] == real  # the planted U does not depend on the image
    assert found[48 / 256, "distance_only"]["size_auc"] < 1


def test_coverage_leaves_out_a_distant_patch_in_reality_and_under_the_controls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 0: three patches of the same row are relevant to each, and one in the opposite corner. Others: none."""
    uncertainty = torch.zeros(1, 16, 16)
    uncertainty[0, :4, [0, 1, 2, 15]] = 1.0
    plant(monkeypatch, uncertainty)

    def measure(**options: Any) -> Any:
        model, own, alphas = sharp_vit(img_size=64), rows_inside(0), [1 / 16, 0.3]
        return measure_image(model, INPUTS, own, [rows_inside(3)], alphas=alphas, beta=0.0, seed=0, **options)

    whole, narrow = measure(), measure(coverage=0.75)
    assert whole == measure(coverage=1.0)
    # Box: patches 0 to 2 reach the corner with 4 x 4 patches, as patch 3 does. Three of four: columns 0 to 2, and 3.
    assert whole[1 / 16, "real"]["size_difference"] == pytest.approx((16 - 1) / 16)
    assert narrow[1 / 16, "real"]["size_difference"] == pytest.approx(((3 + 3 + 3 + 4) / 4 - 1) / 16)
    assert narrow[1 / 16, "other_boxes"]["size_difference"] == pytest.approx((1 - (13 + 8) / 12) / 16)
    assert narrow[1 / 16, "noise_image"] == narrow[1 / 16, "real"]  # the planted U does not depend on the image
    for control in ("shuffled_rows", "distance_only"):
        assert narrow[0.3, control] != whole[0.3, control], control


def test_a_planted_sink_is_left_out_of_reality_and_of_all_controls() -> None:
    model: Any = looking_model(GRID, looks_for=1, silent=(3, 3))
    with torch.no_grad():
        model.pos_embed[0, 1:, 0] = torch.linspace(0.1, 0.5, 16)
        for block in model.blocks:
            block.attn.qkv.weight.view(3, 2, 3, 6)[1, :, 0, 0] = 1.0
    image = painted(torch.zeros(1, 3, SIZE, SIZE), (1, 2), 1, value=2.0)
    own, alpha = rows_inside(0, 1), 0.2
    exclude = attention_sinks(model, image).patches
    assert exclude.nonzero().tolist() == [[0, 6]]
    plain, without = (
        measure_image(model, image, own, [rows_inside(2)], alphas=[alpha], beta=0.2, seed=3, exclude_sinks=chosen)
        for chosen in (False, True)
    )
    uncertainty, random = InteractionUncertainty(model).uncertainty(image), torch.Generator().manual_seed(3)
    field = responsive_field(uncertainty, GRID, alpha, 0.2, exclude=exclude)
    assert without[alpha, "real"] == evaluate_claims(field, Target.of_object(own))
    shuffled = shuffle_rows(uncertainty.masked_fill(exclude.unsqueeze(1), 0.0), random, exclude)
    field = responsive_field(shuffled, GRID, alpha, 0.2, exclude=exclude)
    assert without[alpha, "shuffled_rows"] == evaluate_claims(field, Target.of_object(own))
    field = responsive_field(distance_only(uncertainty, GRID, random, exclude), GRID, alpha, 0.2, exclude=exclude)
    assert without[alpha, "distance_only"] == evaluate_claims(field, Target.of_object(own))
    for control in CONTROLS[:-1]:
        assert plain[alpha, control] != without[alpha, control], control


def test_every_control_is_what_its_name_says() -> None:
    model, own, others = sharp_vit(img_size=64), rows_inside(0, 1), [rows_inside(3), rows_inside(1, 2)]
    found = measure_image(model, INPUTS, own, others, alphas=[0.1, 0.3], beta=0.2, seed=5)
    assert list(found) == [(alpha, control) for alpha in (0.1, 0.3) for control in CONTROLS]
    assert found == measure_image(model, INPUTS, own, others, alphas=[0.1, 0.3], beta=0.2, seed=5)
    explainer = InteractionUncertainty(model)
    real = explainer.uncertainty(INPUTS)
    field = responsive_field(real, GRID, 0.3, 0.2)
    assert found[0.3, "real"] == evaluate_claims(field, Target.of_object(own))
    each = [evaluate_claims(field, Target.of_object(other)) for other in others]
    assert found[0.3, "other_boxes"] == {claim: (each[0][claim] + each[1][claim]) / 2 for claim in CLAIMS}
    assert found[0.3, "image_center"] == evaluate_claims(field, Target.of_center(8, GRID))
    random = torch.Generator().manual_seed(5)
    torch.rand(real.shape, generator=random)
    torch.rand(real.flatten(1).shape, generator=random, dtype=torch.float64)
    noise = responsive_field(explainer.uncertainty(noise_like(INPUTS, random)), GRID, 0.3, 0.2)
    assert found[0.3, "noise_image"] == evaluate_claims(noise, Target.of_object(own))
    for control in CONTROLS[1:]:
        assert found[0.3, control] != found[0.3, "real"], control


def test_undefined_claims_are_nan_and_left_out_of_averages() -> None:
    alone = responsive_field(torch.rand(1, 16, 16), GRID, 0.0, 0.0)  # one patch per field
    claims = evaluate_claims(alone, Target.of_object(rows_inside(0)))
    assert (claims["smaller_inside"], claims["size_auc"]) == (0, 0.5)
    assert isnan(claims["tendency_cosine"])
    everything = evaluate_claims(alone, Target.of_center(16, GRID))
    assert all(map(isnan, everything.values()))
    assert isnan(average([{"size_auc": nan}])["size_auc"])
