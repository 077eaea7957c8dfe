"""GMAR's weights of heads in the two-layer example."""

from torch import Tensor

from tests.helpers.explicit_attention import A1, A2, CLASS, G1, G2, close
from vit_interactions.functional.chain import chain, horner
from vit_interactions.functional.gmar import head_weights, weighted_heads


def fused(norm: str) -> list[Tensor]:
    return [weighted_heads(a, head_weights(g, norm)) for a, g in ((A1, G1), (A2, G2))]  # type: ignore[arg-type]


def test_gmar_head_weights_of_the_two_layer_example() -> None:
    close(head_weights(G1, "l1"), [8 / 19, 11 / 19])
    close(head_weights(G2, "l1"), [11 / 18, 7 / 18])
    close(head_weights(G1, "l2"), [0.413526, 0.586474])
    close(head_weights(G2, "l2"), [0.604356, 0.395644])


def test_gmar_of_the_two_layer_example() -> None:
    top_down = fused("l1")[::-1]
    close(chain(CLASS, top_down, normalize=True), [0.472675, 0.312310, 0.215015])
    close(chain(CLASS, fused("l2")[::-1], normalize=True), [0.472572, 0.312639, 0.214789])
    close(chain(CLASS, top_down, normalize=False), [1.890702, 1.249240, 0.860058])
    close(horner(CLASS, top_down), [1.622281, 0.775556, 0.602164])
    close(horner(CLASS, fused("l1"), order="as_published"), [1.678421, 0.637456, 0.684123])
