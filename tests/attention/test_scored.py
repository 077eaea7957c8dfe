"""A function as target is explained by the tokens that it reads, whatever the model's main output reads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.helpers.families import tiny
from tests.helpers.twins import SIDE, images, vit

METHODS = ("generic_attention", "gmar", "gradient_rollout", "attention_guided_cam")


class Tokens(nn.Module):
    """A ViT that returns its classes beside all of its tokens, or what is read from them."""

    def __init__(self, inner: Any, read: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take the ViT, and what is read from its tokens."""
        super().__init__()
        self.inner, self.read = inner, read

    def forward(self, x: Tensor) -> Any:
        """Run the ViT once."""
        tokens = self.inner.forward_features(x)
        return self.read(tokens) if self.read else {"logits": self.inner.forward_head(tokens), "tokens": tokens}


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "class token": lambda tokens: tokens[:, 0],
    "mean of the patches": lambda tokens: tokens[:, 1:].mean(1),
    "mean of all": lambda tokens: tokens.mean(1),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("read", READ)
def test_a_score_of_tokens_is_explained_like_a_model_that_returns_it(name: str, read: str) -> None:
    method = vi.EXPLAINERS[name]
    wanted = method(Tokens(vit(), READ[read])).patch_map(images(), 3)
    found = method(Tokens(vit())).patch_map(images(), lambda output: READ[read](output["tokens"])[:, 3])
    assert wanted.any()
    torch.testing.assert_close(found, wanted)


def test_as_many_images_as_tokens_are_not_taken_for_tokens() -> None:
    explainer = vi.GenericAttention(Tokens(vit()))
    target = lambda output: output["tokens"][:, 1:].mean(1)[:, 3]  # noqa: E731
    together = explainer.patch_map(images(17), target)
    torch.testing.assert_close(together[:1], explainer.patch_map(images(17)[:1], target))


@pytest.mark.parametrize("inner", [vit, lambda: tiny("vit_base_patch16_siglip_224", img_size=SIDE).double()])
def test_the_main_output_keeps_its_readout(inner: Any) -> None:
    wanted = vi.GenericAttention(inner()).patch_map(images(), 1)
    found = vi.GenericAttention(Tokens(inner())).patch_map(images(), lambda output: output["logits"][:, 1])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "target",
    [
        lambda output: output["tokens"][:, 5, 3],  # one patch
        lambda output: output["tokens"][:, 1:, 3].amax(1),
        lambda output: output["tokens"][:, :, 3] @ torch.arange(17.0).double(),
    ],
)
def test_scores_that_are_no_fixed_share_of_the_tokens_are_refused(target: Any) -> None:
    with pytest.raises(vi.UnsupportedModelError, match="no fixed share of its last tokens"):
        vi.GenericAttention(Tokens(vit())).patch_map(images(), target)
    assert vi.AttnLRP(Tokens(vit())).patch_map(images(), target).any()


def test_another_prefix_token_than_the_models_own_is_refused() -> None:
    model = Tokens(tiny("vit_small_patch14_reg4_dinov2", img_size=SIDE, patch_size=16).double())
    explainer = vi.GenericAttention(model)
    assert explainer.patch_map(images(), lambda output: output["tokens"][:, 0, 3]).any()
    with pytest.raises(vi.UnsupportedModelError, match="no fixed share of its last tokens"):
        explainer.patch_map(images(), lambda output: output["tokens"][:, 2, 3])


def test_a_pooling_head_that_the_score_goes_round_is_not_its_readout() -> None:
    model = tiny("vit_base_patch16_siglip_224", img_size=SIDE).double()
    wanted = vi.GenericAttention(Tokens(model, lambda tokens: tokens.mean(1))).patch_map(images(), 3)
    found = vi.GenericAttention(Tokens(model)).patch_map(images(), lambda output: output["tokens"].mean(1)[:, 3])
    torch.testing.assert_close(found, wanted)
    with pytest.raises(vi.UnsupportedModelError, match="no fixed share"):
        vi.GenericAttention(Tokens(model)).patch_map(
            images(), lambda output: output["tokens"].mean(1)[:, 3] + output["logits"][:, 1]
        )
