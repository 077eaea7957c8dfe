"""pytorch-grad-cam's CAMs as explainers for any model, without a `reshape_transform` and without choosing a layer.

The maps are computed by pytorch_grad_cam, with `get_cam_image` of its classes and the ReLU after it. The rest of its
classes is not used, because they leave the model in eval mode, delete the user's gradients and need parameters that
require gradients.
"""

import importlib
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vit_interactions import Explainer, TokenLayout
from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.explain.libra_grad import Gradient, check_gradient, gradient_rules
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.utilities.seeds import seeded
from vit_interactions_adapters.token_grid import check_alive, grid_at, layout_and_place


class GradcamMethod(Explainer):
    """One of pytorch_grad_cam's classes over the patch tokens of one layer.

    Attributes:
        cam: name of the class in pytorch_grad_cam.
    """

    class_specific = True
    needs_attention = False
    forwards = 2  # the first pass finds the last attention and checks the model
    backwards = 1
    quantity = "class activation"
    library = "pytorch-grad-cam"
    cam: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        eigen_smooth: bool = False,
        gradient: Gradient = "plain",
    ) -> None:
        """Create the explainer.

        Args:
            model: any model.
            layer: name of a module, whose output is used. None: the input tokens of the last attention (in timm, the
                output of `blocks[-1].norm1`), whose gradient is not 0 for any pooling. For models without attention
                among patches, the last feature map.
            eigen_smooth: use the first principal component of the weighted channels instead of their sum, as in
                pytorch_grad_cam. Methods that always use a component ignore it.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.
        """
        super().__init__(model)
        self.gradient = check_gradient(gradient)
        self.layer, self.eigen_smooth = layer, eigen_smooth

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        if self.class_specific:
            require_target(type(self).__name__, target)
        return self._on_copy()._over_patches(inputs, target, additional_forward_args)

    def _over_patches(
        self, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> tuple[Tensor, TokenLayout]:
        layout, attention = layout_and_place(self.model, inputs, additional_forward_args, self.layer)
        features: list[Tensor] = []
        gradient = None
        rules = gradient_rules(self.gradient, self.model)
        with differentiable(inputs) as leaf, torch.set_grad_enabled(self.class_specific):
            with (
                rules or nullcontext(),
                evaluation_mode(self.model),
                grid_at(self.model, layout, self.layer, attention) as grid,
            ):
                grid.register_forward_hook(lambda _, args, output: features.append(output))
                output = self.model(leaf, *as_arguments(additional_forward_args))
            if not features:
                raise ValueError(f"`layer` must run in the forward pass, got {self.layer!r}. Name another layer.")
            if target is not None:
                score = select_target(output, target, len(inputs))
            if self.class_specific:
                check_differentiable(self.model, score.sum(), features[-1])
                if rules is not None:
                    rules.check_graph(score)
                (gradient,) = torch.autograd.grad(score.sum(), features[-1:])
                check_alive(gradient, self.layer, attention)
        return self._cam_image(inputs, features[-1], gradient).flatten(1), layout

    def _cam_image(self, inputs: Tensor, features: Tensor, gradient: Tensor | None) -> Tensor:
        """Compute the map (batch, rows, cols) ≥ 0 with pytorch_grad_cam."""
        with seeded(0):
            cam = getattr(importlib.import_module("pytorch_grad_cam"), self.cam)(self.model, [])
            values = cam.get_cam_image(
                inputs,
                None,
                None,
                _numpy(features),
                gradient if gradient is None else _numpy(gradient),
                self.eigen_smooth,
            )
        if not np.isfinite(values).all():
            raise ValueError(f"pytorch_grad_cam's {self.cam} returned NaN or infinite values. Use another method.")
        dtype = torch.promote_types(features.dtype, torch.float32)
        return torch.from_numpy(np.maximum(values, 0)).to(inputs.device, dtype)


def _numpy(values: Tensor) -> np.ndarray[Any, Any]:
    """Copy to numpy, in at least float32, since numpy has no bfloat16."""
    values = values.detach().cpu()
    return values.to(torch.promote_types(values.dtype, torch.float32)).contiguous().numpy()


class Gradcam(GradcamMethod):
    """Channels weighted by their mean gradient.

    Example:
        >>> import timm, warnings
        >>> from vit_interactions import ZeroMapWarning
        >>> warnings.simplefilter("ignore", ZeroMapWarning)  # maps of untrained models may be zero
        >>> explainer = Gradcam(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.rand(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    cam = "GradCAM"
    source = "Selvaraju et al., Grad-CAM, ICCV 2017"


class GradcamPlusPlus(GradcamMethod):
    """Channels weighted by their positive gradients, which are weighted by higher derivatives."""

    cam = "GradCAMPlusPlus"
    source = "Chattopadhay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063"


class GradcamElementwise(GradcamMethod):
    """The positive part of gradient times activation, summed over channels."""

    cam = "GradCAMElementWise"
    source = "pytorch-grad-cam's own"


class Xgradcam(GradcamMethod):
    """Channels weighted by their mean gradients, which are weighted by the activations."""

    cam = "XGradCAM"
    source = "Fu et al., Axiom-based Grad-CAM, BMVC 2020, arXiv 2008.02312"


class Hirescam(GradcamMethod):
    """Gradient times activation, summed over channels."""

    cam = "HiResCAM"
    source = "Draelos and Carin, HiResCAM, arXiv 2011.08891"


class Layercam(GradcamMethod):
    """Positive gradient times activation, summed over channels."""

    cam = "LayerCAM"
    source = "Jiang et al., LayerCAM, IEEE TIP 2021"


class Eigengradcam(GradcamMethod):
    """The first principal component of gradient times activation; its sign is arbitrary."""

    cam = "EigenGradCAM"
    source = "after Muhammad and Yeasin, arXiv 2008.00299"


class SegEigencam(GradcamMethod):
    """The first principal component of activation times |gradient|, with the larger side positive."""

    cam = "SegEigenCAM"
    source = "Chung and Ying, Seg-Eigen-CAM, Applied Sciences 15(13), 2025"


class FeatureMethod(GradcamMethod):
    """Base class of CAMs of the features only, without a class and without gradients."""

    class_specific = False
    backwards = 0

    def __init__(self, model: nn.Module, layer: str | None = None, eigen_smooth: bool = False) -> None:
        """Create the explainer; see `GradcamMethod`."""
        super().__init__(model, layer, eigen_smooth)


class Eigencam(FeatureMethod):
    """The first principal component of the features; its sign is arbitrary."""

    cam = "EigenCAM"
    quantity = "first principal component"
    source = "Muhammad and Yeasin, Eigen-CAM, IJCNN 2020, arXiv 2008.00299"


class KpcaCam(FeatureMethod):
    """The first kernel principal component of the features; its sign is arbitrary."""

    cam = "KPCA_CAM"
    quantity = "first kernel principal component"
    source = "Karmani et al., KPCA-CAM, arXiv 2410.00267"


class Fem(FeatureMethod):
    """Channels weighted by how often they exceed their mean by two standard deviations."""

    cam = "FEM"
    source = "Fuad et al., Features Understanding in 3D CNNs, IPTA 2020"


GRADCAM_METHODS: dict[str, type[GradcamMethod]] = {
    "gradcam": Gradcam,
    "gradcam_plus_plus": GradcamPlusPlus,
    "gradcam_elementwise": GradcamElementwise,
    "xgradcam": Xgradcam,
    "hirescam": Hirescam,
    "layercam": Layercam,
    "eigengradcam": Eigengradcam,
    "seg_eigencam": SegEigencam,
    "eigencam": Eigencam,
    "kpca_cam": KpcaCam,
    "fem": Fem,
}
# Other classes of pytorch_grad_cam, and the reasons why they are not offered.
NOT_OFFERED = {
    "FullGrad": "it sums the biases of convolutions and batch norms, which a ViT has only in its stem",
    "AblationCAM": "it replaces a layer of the model while it runs, and ablates channels with -1e7, which saturates "
    "every later softmax",
    "ShapleyCAM": "it differentiates twice, which fused attention kernels do not support",
    "ScoreCAM": "it runs the model once per channel and image (hundreds of passes); `occlusion` does so per patch",
    "RandomCAM": "it is noise that differs from call to call; `random_map` is the seeded random baseline",
    "FinerCAM": "it is a target, not a map: pass `gradcam` a function as `target` that subtracts the similar classes",
    "RefineCAM": "it multiplies the maps of another CAM at several layers: multiply the `patch_map` of "
    "GradcamPlusPlus(model, layer=...), each divided by its maximum",
    "SESS": "it runs another CAM on crops of the image at twelve scales, 122 crops for a square image: compute maps "
    "of crops yourself",
    "GuidedBackpropReLUModel": "it changes the backward pass of ReLUs, and a ViT has other activations",
    "DeepFeatureFactorization": "it clusters the features of a layer into concepts and does not return a class map",
}


def why_not_offered(name: str) -> str:
    """Return why a class of pytorch_grad_cam is not offered, in any common spelling of its name; "" for other names.

    Example:
        >>> why_not_offered("shapley-cam")
        'ShapleyCAM is not offered: it differentiates twice, which fused attention kernels do not support.'
        >>> why_not_offered("gradcam")
        ''
    """
    reasons = (f"{cam} is not offered: {why}." for cam, why in NOT_OFFERED.items() if _plain(cam) == _plain(name))
    return next(reasons, "")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
