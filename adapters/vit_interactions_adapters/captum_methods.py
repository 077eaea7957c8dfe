"""captum's attribution methods as explainers, with the same map over patches as our methods.

`attribute` returns captum's attribution, and `patch_map` sums it over the pixels and channels of each patch. All
targets of this library work, because captum is given a function that computes the score itself.
"""

from typing import Any, Literal

import captum.attr
import torch
from torch import Tensor, nn

from vit_interactions import Explainer, TokenLayout
from vit_interactions.attention.feature_grid import image_layout
from vit_interactions.explain.libra_grad import Gradient, check_gradient
from vit_interactions.utilities.seeds import seeded
from vit_interactions_adapters.captum_base import CaptumMethod, Forward
from vit_interactions_adapters.token_grid import check_alive, grid_at, layout_and_place

Baselines = Tensor | float | None
Integration = Literal["riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre"]


class CaptumSaliency(CaptumMethod):
    """|gradient| of the pixels; the value of a patch is the sum.

    Example:
        >>> import timm
        >>> explainer = CaptumSaliency(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.zeros(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    quantity = "sum of |gradient|"
    source = "Simonyan et al., Deep Inside Convolutional Networks, 2013, arXiv 1312.6034"

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        return captum.attr.Saliency(forward).attribute(inputs, additional_forward_args=arguments)


class CaptumInputXGradient(CaptumMethod):
    """Input times gradient; the value of a patch is the signed sum."""

    quantity = "sum of input times gradient"
    source = "Shrikumar et al., Not Just a Black Box, 2016, arXiv 1605.01713"

    def __init__(self, model: nn.Module, gradient: Gradient = "plain") -> None:
        """Create the explainer.

        Args:
            model: any model.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.
        """
        super().__init__(model)
        self.gradient = check_gradient(gradient)

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        return captum.attr.InputXGradient(forward).attribute(inputs, additional_forward_args=arguments)


class CaptumIntegratedGradients(CaptumMethod):
    """Gradients integrated along a path from a baseline; the patches' signed sums add up to the score difference."""

    forwards = 50
    backwards = 50
    quantity = "contribution to the score"
    source = "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, arXiv 1703.01365"

    def __init__(
        self,
        model: nn.Module,
        baselines: Baselines = None,
        n_steps: int = 50,
        method: Integration = "gausslegendre",
        internal_batch_size: int | None = None,
        gradient: Gradient = "plain",
    ) -> None:
        """Create the explainer with captum's options.

        Args:
            model: any model.
            baselines: start of the path; a number, or a tensor (1 or batch, channels, height, width). None: 0.
            n_steps: points on the path; each takes a forward and a backward pass.
            method: captum's name of the quadrature.
            internal_batch_size: images per pass. None: the size of the batch, one point at a time. (In captum, None
                computes all points at once.)
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`. Then it is no path
                integral, and does not sum to the score difference.
        """
        super().__init__(model)
        self.baselines, self.n_steps, self.method = baselines, n_steps, method
        self.internal_batch_size = internal_batch_size
        self.complete = baselines is None
        self.gradient = check_gradient(gradient)

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        return captum.attr.IntegratedGradients(forward).attribute(
            inputs,
            _at(inputs, self.baselines),
            additional_forward_args=arguments,
            n_steps=self.n_steps,
            method=self.method,
            internal_batch_size=max(self.internal_batch_size or 0, len(inputs)),
        )


class CaptumGradientShap(CaptumMethod):
    """Gradients at random points between random baselines and the image; the value of a patch is the signed sum.

    Each image is computed separately with the same random numbers, so its result does not depend on the batch.
    """

    quantity = "contribution to the score"
    source = "Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017"

    def __init__(
        self,
        model: nn.Module,
        baselines: Baselines = None,
        n_samples: int = 5,
        stdevs: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Create the explainer with captum's options.

        Args:
            model: any model.
            baselines: baselines to draw from, a tensor (number, channels, height, width); or one number. None: 0.
            n_samples: points per image, in one pass.
            stdevs: standard deviation of the noise added to the image.
            seed: random seed.
        """
        super().__init__(model)
        self.baselines, self.n_samples, self.stdevs, self.seed = baselines, n_samples, stdevs, seed
        self.complete = baselines is None and stdevs == 0  # in expectation

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        baselines = _at(inputs, self.baselines)
        if not isinstance(baselines, Tensor):
            baselines = torch.full_like(inputs[:1], baselines or 0.0, requires_grad=False)
        method = captum.attr.GradientShap(forward)
        attributions = []
        for index in range(len(inputs)):
            with seeded(self.seed):
                attribution = method.attribute(
                    inputs[index : index + 1].detach(),
                    baselines,
                    n_samples=self.n_samples,
                    stdevs=self.stdevs,
                    additional_forward_args=_of_example(arguments, index),
                )
            attributions.append(attribution.detach())
        return torch.cat(attributions)


class CaptumOcclusion(CaptumMethod):
    """The drop of the score when a window of patches is replaced by a baseline."""

    forwards = 197  # of 14 x 14 patches
    backwards = 0
    per_patch = "mean"
    quantity = "drop of the score"
    source = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014"

    def __init__(
        self, model: nn.Module, baselines: Baselines = None, window: int = 1, perturbations_per_eval: int = 1
    ) -> None:
        """Create the explainer with captum's options.

        Args:
            model: any model.
            baselines: replacement of the pixels; a number, or a tensor (1 or batch, channels, height, width). None: 0.
            window: side of the window in patches. It moves by one patch, and the value of a patch is the mean over the
                windows that contain it.
            perturbations_per_eval: windows per forward pass.
        """
        super().__init__(model)
        if window < 1:
            raise ValueError(f"`window` must be at least 1 patch, got {window}.")
        self.baselines, self.window, self.perturbations_per_eval = baselines, window, perturbations_per_eval

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        _, channels, *image_size = inputs.shape
        patch = _patch_size(_layout(self.model, inputs, arguments))
        return captum.attr.Occlusion(forward).attribute(
            inputs,
            sliding_window_shapes=(
                channels,
                *(min(size, self.window * side) for size, side in zip(image_size, patch, strict=True)),
            ),
            strides=(channels, *patch),
            baselines=_at(inputs, self.baselines),
            additional_forward_args=arguments,
            perturbations_per_eval=self.perturbations_per_eval,
        )


class CaptumFeatureAblation(CaptumMethod):
    """The drop of the score when a region, by default a patch, is replaced by a baseline."""

    forwards = 197  # of 14 x 14 patches
    backwards = 0
    per_patch = "mean"
    quantity = "drop of the score"
    source = "captum's own"

    def __init__(
        self,
        model: nn.Module,
        baselines: Baselines = None,
        feature_mask: Tensor | None = None,
        perturbations_per_eval: int = 1,
    ) -> None:
        """Create the explainer with captum's options.

        Args:
            model: any model.
            baselines: replacement of the pixels; a number, or a tensor (1 or batch, channels, height, width). None: 0.
            feature_mask: (1, 1 or channels, height, width), the number of each pixel's region. None: the patches. The
                value of a patch is the mean over its pixels.
            perturbations_per_eval: regions per forward pass.
        """
        super().__init__(model)
        self.baselines, self.feature_mask = baselines, feature_mask
        self.perturbations_per_eval = perturbations_per_eval

    def _attribution(self, forward: Forward, inputs: Tensor, arguments: tuple[Any, ...]) -> Any:
        mask = self.feature_mask
        if mask is None:
            mask = _patch_numbers(_layout(self.model, inputs, arguments), inputs)
        return captum.attr.FeatureAblation(forward).attribute(
            inputs,
            _at(inputs, self.baselines),
            additional_forward_args=arguments,
            feature_mask=mask.to(inputs.device),
            perturbations_per_eval=self.perturbations_per_eval,
        )


class CaptumLayerGradCam(CaptumMethod):
    """captum's LayerGradCam over patches: the signed sum of the channels, weighted by their mean gradient.

    Applied to a layer of a ViT directly, captum would treat tokens as channels. Here it is given the layer's patch
    tokens as (batch, channels, rows, cols). `attribute` is the map resized bilinearly.
    """

    forwards = 2  # the first pass finds the last attention and checks the model
    quantity = "class activation"
    source = "Selvaraju et al., Grad-CAM, ICCV 2017, arXiv 1610.02391"
    attribute = Explainer.attribute

    def __init__(self, model: nn.Module, layer: str | None = None, gradient: Gradient = "plain") -> None:
        """Create the explainer for a layer.

        Args:
            model: any model.
            layer: name of a module, whose output is used. None: the input tokens of the last attention (in timm, the
                output of `blocks[-1].norm1`), whose gradient is not 0 for any pooling. For models without attention
                among patches, the last feature map.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.
        """
        super().__init__(model)
        self.layer = layer
        self.gradient = check_gradient(gradient)

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        return self._on_copy()._over_patches(inputs, target, additional_forward_args)

    def _over_patches(
        self, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> tuple[Tensor, TokenLayout]:
        layout, attention = layout_and_place(self.model, inputs, additional_forward_args, self.layer)
        with grid_at(self.model, layout, self.layer, attention) as grid:

            def attribute(forward: Forward, images: Tensor, arguments: tuple[Any, ...]) -> Any:
                cam = captum.attr.LayerGradCam(forward, grid)
                return cam.attribute(images, additional_forward_args=arguments)

            cam = self._pixels(inputs, target, additional_forward_args, attribute).flatten(1)
        check_alive(cam, self.layer, attention)
        return cam, layout


def _at(inputs: Tensor, baselines: Baselines) -> Baselines:
    """Convert a tensor of baselines to the type and device of the images."""
    return baselines.to(inputs) if isinstance(baselines, Tensor) else baselines


def _of_example(arguments: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    """Select one example's row of every tensor that has rows."""
    return tuple(
        argument[index : index + 1] if isinstance(argument, Tensor) and argument.ndim else argument
        for argument in arguments
    )


def _layout(model: nn.Module, inputs: Tensor, arguments: tuple[Any, ...]) -> TokenLayout:
    return image_layout(model, inputs, arguments[:-1])  # without the examples, see `CaptumMethod._scores`


def _patch_size(layout: TokenLayout) -> tuple[int, int]:
    return layout.extent[0] // layout.rows, layout.extent[1] // layout.cols


def _patch_numbers(layout: TokenLayout, inputs: Tensor) -> Tensor:
    """Return the patch index of each pixel, (1, 1, height, width); pixels that no patch covers are one more region."""
    row, col = (
        torch.arange(size, device=inputs.device) // side
        for size, side in zip(inputs.shape[-2:], _patch_size(layout), strict=True)
    )
    seen = (row < layout.rows).unsqueeze(1) & (col < layout.cols)
    return torch.where(seen, row.unsqueeze(1) * layout.cols + col, layout.patches)[None, None]


# Names are those of captum's classes, in snake case.
CAPTUM_METHODS: dict[str, type[CaptumMethod]] = {
    "saliency": CaptumSaliency,
    "input_x_gradient": CaptumInputXGradient,
    "integrated_gradients": CaptumIntegratedGradients,
    "gradient_shap": CaptumGradientShap,
    "occlusion": CaptumOcclusion,
    "feature_ablation": CaptumFeatureAblation,
    "layer_grad_cam": CaptumLayerGradCam,
}
