"""TIS: scores of the model with only some of its tokens, chosen by clustering the features of its blocks.

Source: Englebert et al., "Explaining Through Transformer Input Sampling", ICCV Workshops 2023, and the authors' code.
The code leaves tokens out; here they are masked in all attention, which is the same (see `TokenMasking`) and lets
masks share a pass. The map is not scaled to [0, 1].
"""

from typing import Any

import torch
from torch import Tensor, nn

from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.probing.scored import probe_score
from vit_interactions.explain.attention_path import same_class
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.masked_scores import masked_scores
from vit_interactions.explain.patch_features import BlockOutputs, layer_names
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.functional.attention import at_least_float32
from vit_interactions.functional.scores import class_outputs
from vit_interactions.functional.token_masks import mean_score_shown, sample_masks
from vit_interactions.utilities.checks import check_count, check_fraction


class TIS(Explainer):
    """The mean probability of the class over the masks that show a patch.

    The channels of all blocks' outputs, as maps over patches, are clustered by k-means. Each center is a mask that
    shows its highest patches; the model runs with only these tokens and the prefix tokens.

    Example:
        >>> import timm
        >>> explainer = TIS(timm.create_model("test_vit"), masks=64)
        >>> explainer.patch_map(torch.rand(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    class_specific = True
    forwards = 1025  # with the default of 1024 masks
    quantity = "mean probability with the patch"
    source = "Englebert et al., Explaining Through Transformer Input Sampling, ICCV Workshops 2023"

    def __init__(self, model: nn.Module, masks: int = 1024, ratio: float = 0.5, seed: int = 0) -> None:
        """Create the explainer.

        Args:
            model: a ViT whose output is read from a class token or by an attention-pooling head, and whose blocks
                follow one another in a list.
            masks: number of masks, each of which takes a forward pass; at most the channels of all blocks are used.
            ratio: fraction of the patches that a mask shows.
            seed: random seed of the clusters.

        Raises:
            ValueError: an option outside its range; later, a ratio of less than one patch.
        """
        super().__init__(model)
        check_count("masks", masks)
        check_fraction("ratio", ratio)
        self.masks, self.ratio, self.seed = masks, ratio, seed

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        return self._on_copy()._sample(inputs, target, additional_forward_args)

    def _sample(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        # Before the blocks are watched, because probing a score may run the model.
        probe_score(
            self.model, inputs, additional_forward_args, lambda output: select_target(output, target, len(inputs))
        )
        blocks = BlockOutputs(self.model, layer_names(self.model, inputs, additional_forward_args))
        with blocks.kept():
            seen = self._observe(inputs, target, additional_forward_args, lambda call, layout: None)
        layout = seen.layout
        if int(self.ratio * layout.patches) < 1:
            raise ValueError(
                f"`ratio` must be at least 1/{layout.patches}, one of the {layout.patches} patches, got {self.ratio}."
            )
        channels = torch.cat([blocks.patches(layer, seen, norm=False) for layer in range(blocks.layers)], -1)
        # Image by image with the same seed, so that the batch does not matter.
        shown = torch.stack([sample_masks(image, self.masks, self.ratio, self.seed) for image in channels], 1)
        target = same_class(seen.output, target)

        def score(output: Any) -> Tensor:
            return probability(output, target, len(inputs))

        scores = masked_scores(self.model, inputs, additional_forward_args, seen, shown, score)
        maps = [mean_score_shown(*image) for image in zip(scores.T, shown.unbind(1), strict=True)]
        return torch.stack(maps), layout


def probability(output: Any, target: Any, batch: int) -> Tensor:
    """Compute the probability of a class per image, (batch,); a target that is a function is used unchanged.

    Example:
        >>> probability(torch.zeros(1, 4), 2, 1)
        tensor([0.2500])
    """
    if callable(target):
        return select_target(output, target, batch)
    logits = at_least_float32(class_outputs(output, batch))
    return select_target(logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid(), target, batch)
