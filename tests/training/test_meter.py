"""Running means of the losses."""

import math

import pytest
import torch

from vit_interactions.training.meter import Meter


def test_means_cover_all_batches() -> None:
    meter, other = Meter(), Meter()
    meter.add({"loss": torch.tensor(1.0), "operations": torch.tensor([1.0, 3.0])})
    meter.add({"loss": torch.tensor(4.0), "operations": torch.tensor([5.0, 5.0])})
    assert meter.take("row") == {"loss": 2.5, "operations": 3.5}
    other.load_state_dict(meter.state_dict())
    for one in (meter, other):
        one.add({"loss": torch.tensor(1.0), "operations": torch.tensor([0.0, 0.0])})
        assert one.mean("row") == {"loss": 1.0, "operations": 0.0}
        assert one.mean("epoch") == {"loss": 2.0, "operations": pytest.approx(7 / 3)}
    meter.add({"loss": torch.tensor(math.inf), "operations": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"numbers of a step must be finite, got loss inf, operations 0.0"):
        meter.state_dict()


def test_means_count_readable_images() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)}, 0.5)
    meter.add({"loss": torch.tensor(4.0)})
    meter.add({"loss": torch.tensor(100.0)}, 0.0)
    assert meter.take("row") == {"loss": 3.0}
    meter.add({"loss": torch.tensor(7.0)}, 0.0)
    assert math.isnan(meter.take("row")["loss"])
    assert meter.take("epoch") == {"loss": 3.0}
