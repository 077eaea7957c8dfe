"""The teacher: a trained ViT that determines the windows of each image for a student.

Source: Ma et al., arXiv 2203.05922, Secs. 4 and 5: windows come from a trained plain ViT.
"""

import torch
from torch import Tensor, nn

from vit_interactions.attention.probe import token_layout
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.responsive_field_size import ResponsiveFieldSize
from vit_interactions.functional.responsive_field import ResponsiveField


class WindowTeacher(nn.Module):
    """A frozen ViT that computes the responsive fields of the very images that the student sees.

    The teacher takes over the model: its parameters no longer require gradients, and it stays in evaluation mode. A
    call is one forward pass without gradients that streams U; it works under autocast and on any device.

    Attributes:
        model: the frozen ViT.
        alpha: fraction of all patch pairs that count as relevant.
        beta: fraction of patches dropped as indiscriminative.
        coverage: fraction of a patch's relevant patches that its window contains at least.
        exclude_sinks: whether attention sinks are relevant to no other patch.

    Example:
        >>> import timm
        >>> teacher = WindowTeacher(timm.create_model("test_vit"), alpha=0.05)
        >>> field = teacher(torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)))
        >>> field.grid, field.windows.shape, field.dropped.sum(1)
        ((10, 10), torch.Size([2, 100, 4]), tensor([20, 20]))
    """

    def __init__(
        self,
        model: nn.Module,
        alpha: float = 0.10,
        beta: float = 0.20,
        coverage: float = 1.0,
        exclude_sinks: bool = False,
    ) -> None:
        """Freeze a trained model; the defaults are the paper's best alpha and beta.

        Args:
            model: any ViT with attention among all patches; compiled models and (Distributed)DataParallel are
                unwrapped.
            alpha: fraction of all patch pairs that count as relevant, in [0, 1].
            beta: fraction of patches dropped as indiscriminative, in [0, 1].
            coverage: fraction of a patch's relevant patches that its window contains at least, in [0, 1]; 1 is the
                paper's bounding box. See `adaptive_windows`.
            exclude_sinks: leave out the attention sinks of each image, which are then relevant to no other patch; see
                `attention_sinks`.

        Raises:
            TypeError: `model` is not a module.
            ValueError: `alpha`, `beta` or `coverage` outside [0, 1].
        """
        super().__init__()
        self.model = unwrap(model)
        self._explainer = ResponsiveFieldSize(self.model, alpha, beta, coverage, exclude_sinks)
        self.alpha, self.beta, self.coverage, self.exclude_sinks = alpha, beta, coverage, exclude_sinks
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "WindowTeacher":
        """Keep evaluation mode, whatever `mode` is."""
        return super().train(False)

    # Recording needs Python frames, which a compiled graph does not have.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: Tensor) -> ResponsiveField:
        """Compute the responsive fields of a batch.

        Args:
            images: (batch, channels, height, width), as the student gets them.

        Raises:
            UnsupportedModelError: a model without attention among all patches.
            ValueError: images that the model does not take, or attention that is not finite.
        """
        return self._explainer.field(images)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (rows, cols) of patches of an image of (height, width) pixels."""
        return token_layout(self.model, image_size).grid

    def extra_repr(self) -> str:
        """Return the options of the windows, for `repr`."""
        return f"alpha={self.alpha:g}, beta={self.beta:g}, coverage={self.coverage:g}" + (
            ", exclude_sinks=True" * self.exclude_sinks
        )
