"""LeGrad's layers in the two-layer example."""

from tests.helpers.explicit_attention import G1, G2, close
from vit_interactions.functional.legrad import layer_sensitivity


def test_the_two_layer_example() -> None:
    close(layer_sensitivity(G2), [0.05, 0.133333, 0.066667])
    close(layer_sensitivity(G1) + layer_sensitivity(G2), [0.141667, 0.283333, 0.183333])
