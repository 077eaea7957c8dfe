"""The teacher: a trained ViT that tells a student, for each image, which patches respond to which.

Source: Ma et al., arXiv 2203.05922, Secs. 4 and 5: windows come from a plain ViT that is trained already.
"""

import torch
from torch import Tensor, nn

from vit_interactions.attention.probe import token_layout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.responsive_field_size import ResponsiveFieldSize
from vit_interactions.functional.responsive_field import ResponsiveField


class WindowTeacher(nn.Module):
    """A frozen ViT that gives the responsive fields of a batch of images, exactly as the student sees it.

    The model is the teacher's from then on: its parameters need no gradient and it stays in evaluation mode. A call
    is one forward pass without a graph, in which U is streamed; it works under autocast and on any device.

    Attributes:
        model: the frozen ViT.
        alpha: share of all patch pairs that count as relevant.
        beta: share of the patches that are dropped as indiscriminative.

    Example:
        >>> import timm
        >>> teacher = WindowTeacher(timm.create_model("test_vit"), alpha=0.05)
        >>> field = teacher(torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)))
        >>> field.grid, field.windows.shape, field.dropped.sum(1)
        ((10, 10), torch.Size([2, 100, 4]), tensor([20, 20]))
    """

    def __init__(self, model: nn.Module, alpha: float = 0.10, beta: float = 0.20) -> None:
        """Take a trained model and what makes a field; the paper's best α and β are the defaults.

        Args:
            model: any ViT with global attention; compiled models and (Distributed)DataParallel wrappers are looked
                into.
            alpha: share of all patch pairs that count as relevant, in [0, 1].
            beta: share of the patches that are dropped as indiscriminative, in [0, 1]; 0 drops none.

        Raises:
            TypeError: `model` is no module.
            ValueError: `alpha` or `beta` outside [0, 1].
        """
        super().__init__()
        self.model = unwrap(model)
        self._explainer = ResponsiveFieldSize(self.model, alpha, beta)
        self.alpha, self.beta = alpha, beta
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "WindowTeacher":
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    # The record works on Python frames, which a compiled graph has not.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> ResponsiveField:
        """Determine the responsive fields of a batch.

        Args:
            images: (batch, channels, height, width), as the student gets them.

        Raises:
            UnsupportedModelError: the model has no attention from every patch to every patch.
            ValueError: images that the model does not take, or attention that is not finite.
        """
        return self._explainer.field(images)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Tell the (rows, cols) of the patches of an image of (height, width) pixels."""
        return token_layout(self.model, image_size).grid

    def extra_repr(self) -> str:
        """Tell α and β."""
        return f"alpha={self.alpha:g}, beta={self.beta:g}"
