"""Token ablation: the drop of a score when the token of a patch is masked in all attention.

The counterpart of occlusion (Zeiler and Fergus, ECCV 2014) in token space: patches are removed instead of painted
over, so the model sees no gray squares.
"""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.explain.attention_path import same_class
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.masked_scores import masked_scores
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.token_masks import square_blocks
from vit_interactions.utilities.checks import check_count


class TokenAblation(Explainer):
    """The drop of the target's score when the token of a patch, or of every patch of a block, is masked.

    A masked token is attended to by no other token in any layer, as if it were removed. Takes one forward pass per
    block, and one for the image; up to 32 of them run at once.

    Example:
        >>> import timm, torch
        >>> explainer = TokenAblation(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.rand(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    class_specific = True
    forwards = 197  # of 14 x 14 patches
    quantity = "drop of the score"
    source = "after Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, on tokens"

    def __init__(self, model: nn.Module, size: int = 1) -> None:
        """Create the explainer.

        Args:
            model: a ViT whose output is read from a class token or by an attention-pooling head.
            size: side in patches of the square block that is masked at once. It moves by one patch, and the value of
                a patch is the mean over the blocks that contain it.

        Raises:
            ValueError: `size` < 1; later, a block that is larger than the grid or covers all of it.
        """
        super().__init__(model)
        check_count("size", size)
        self.size = size

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        seen = self._observe(inputs, target, additional_forward_args, lambda call, layout: None)
        layout = seen.layout
        if self.size > min(layout.grid) or self.size**2 == layout.patches:
            raise ValueError(
                f"`size` must leave a patch of the {layout.rows} x {layout.cols} patches, got {self.size}. "
                "Use smaller blocks."
            )
        target = same_class(seen.output, target)

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        blocks = square_blocks(layout.grid, self.size)
        shown = (~blocks).unsqueeze(1).expand(-1, len(inputs), -1)
        scores = masked_scores(self.model, inputs, additional_forward_args, seen, shown, score)
        drops = (at_least_float32(score(seen.output)) - scores).T
        members = blocks.to(drops)
        return drops @ members / members.sum(0), layout
