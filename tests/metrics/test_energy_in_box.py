"""Energy in the box by hand, and against Quantus."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.other_metrics import options, quantus_localization
from tests.helpers.planted import INSIDE, random_map
from vit_interactions.metrics.energy_in_box import energy_in_box


def test_energy_by_hand() -> None:
    values = torch.tensor([[-2.0, 0.0], [4.0, 1.0]])  # shifted: 0, 2, 6, 3
    assert energy_in_box(values, torch.tensor([[False, True], [True, False]])) == pytest.approx(8 / 11)


def test_energy_equals_quantus_attribution_localisation(quantus: Any) -> None:
    values = random_map((4, 4), 3)
    values = values - values.min()
    with np.errstate(divide="ignore"):
        found = quantus_localization(quantus.AttributionLocalisation(**options()), values, INSIDE)
    assert energy_in_box(values, INSIDE) == pytest.approx(float(found))
