"""Check that AttnLRP runs on families of vision models, and that the relevance of the pixels sums to the score.

    python -m tests.benchmarks.lrp_families

Uses small models with random weights in float64 and zero biases. Prints, per family, the difference between the summed
relevance of the pixels and the score, relative to the score. The variant "cp" (default, without and with gamma rules)
treats attention as a constant. The variant "attn" propagates relevance through the softmax, which does not conserve it.
"""

import torch

from tests.helpers.vision_models import MODELS, vision_model, zero_added
from vit_interactions import AttnLRP, UnsupportedModelError
from vit_interactions.attention.feature_grid import image_layout


def main() -> None:
    """Print the table."""
    print("| family | model | runs | grid | cp | cp with γ | attn |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for family, (name, _) in MODELS.items():
        model = zero_added(vision_model(family).double())
        score = model(image)[0, 2].item()
        plain = {"conv_gamma": 0.0, "linear_gamma": 0.0}
        try:
            errors = [
                abs(AttnLRP(model, **options).attribute(image, target=2).sum().item() - score) / abs(score)
                for options in (plain, {}, {"variant": "attn", **plain})
            ]
        except UnsupportedModelError as error:
            print(f"| {family} | `{name}` | no: {error} | | | | |")
            continue
        rows, cols = image_layout(model, (64, 64)).grid
        cp, gamma, attn = (f"{error:.0e}" for error in errors)
        print(f"| {family} | `{name}` | yes | {rows} x {cols} | {cp} | {gamma} | {attn} |", flush=True)


if __name__ == "__main__":
    main()
