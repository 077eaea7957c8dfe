"""Claims about an image whose fields are known, under each control."""

import math
from math import isnan, nan

import pytest
import torch
from torch import Tensor

from tests.helpers.sharp_vit import sharp_vit
from vit_interactions.explain import InteractionUncertainty
from vit_interactions.field_study.measure import CLAIMS, CONTROLS, Target, average, evaluate_claims, measure_image
from vit_interactions.functional.null_models import noise_like
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


def test_planted_fields_are_found_and_only_on_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InteractionUncertainty, "uncertainty", lambda self, inputs: planted(inputs))
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
