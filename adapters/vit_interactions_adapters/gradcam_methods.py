"""pytorch-grad-cam's CAMs as explainers on any model, without a `reshape_transform` and without choosing a layer.

The mathematics is pytorch_grad_cam's own, `get_cam_image` of its classes, and its ReLU after it. Its runner is not
used: that leaves a model in evaluation mode, deletes the user's gradients and needs parameters that require some.
"""

import importlib
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vit_interactions import Explainer, TokenLayout
from vit_interactions.attention.derivatives import check_differentiable
from vit_interactions.attention.isolation import evaluation_mode
from vit_interactions.attention.probe import as_arguments
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions_adapters.seeds import seeded
from vit_interactions_adapters.token_grid import check_alive, grid_at, layout_and_place


class GradcamMethod(Explainer):
    """One of pytorch_grad_cam's classes over the patch tokens of one layer.

    Attributes:
        cam: the name of the class in pytorch_grad_cam.
    """

    class_specific = True
    needs_attention = False
    forwards = 2  # the first finds the last attention and checks the model
    backwards = 1
    quantity = "class activation"
    library = "pytorch-grad-cam"
    cam: ClassVar[str]

    def __init__(self, model: nn.Module, layer: str | None = None, eigen_smooth: bool = False) -> None:
        """Take the model and the options of the method.

        Args:
            model: any model.
            layer: name of the module whose output is meant; None: the tokens that enter the last attention, in
                timm the output of `blocks[-1].norm1`, which is alive whatever the model's pooling. Of a model
                without attention among patches: the last features that lie over the image.
            eigen_smooth: whether the first principal component of the weighted channels is taken instead of
                their sum, as by pytorch_grad_cam. Methods that take a component anyway do not heed it.
        """
        super().__init__(model)
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
        # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
        with torch.inference_mode(False), torch.set_grad_enabled(self.class_specific):
            leaf = inputs.detach().clone().requires_grad_(self.class_specific)
            with (
                evaluation_mode(self.model),
                grid_at(self.model, layout, self.layer, attention) as grid,
            ):
                grid.register_forward_hook(lambda _, args, output: features.append(output))
                output = self.model(leaf, *as_arguments(additional_forward_args))
            if not features:
                raise ValueError(f"`layer` {self.layer!r} took no part in the forward pass; name another.")
            if target is not None:
                score = select_target(output, target, len(inputs))
            if self.class_specific:
                check_differentiable(self.model, score.sum(), features[-1])
                (gradient,) = torch.autograd.grad(score.sum(), features[-1:])
                check_alive(gradient, self.layer, attention)
        return self._cam_image(inputs, features[-1], gradient).flatten(1), layout

    def _cam_image(self, inputs: Tensor, features: Tensor, gradient: Tensor | None) -> Tensor:
        """Let pytorch_grad_cam compute the map (batch, rows, cols) ≥ 0."""
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
            raise ValueError(f"pytorch_grad_cam's {self.cam} gave values that are not finite; use another method.")
        dtype = torch.promote_types(features.dtype, torch.float32)
        return torch.from_numpy(np.maximum(values, 0)).to(inputs.device, dtype)


def _numpy(values: Tensor) -> np.ndarray[Any, Any]:
    """Copy to numpy, which knows no bfloat16, in at least float32."""
    values = values.detach().cpu()
    return values.to(torch.promote_types(values.dtype, torch.float32)).contiguous().numpy()


class Gradcam(GradcamMethod):
    """Channels weighted by their mean gradient.

    Example:
        >>> import timm, warnings
        >>> from vit_interactions import ZeroMapWarning
        >>> warnings.simplefilter("ignore", ZeroMapWarning)  # an untrained model may find nothing
        >>> explainer = Gradcam(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.rand(1, 3, 160, 160), target="pred").shape
        torch.Size([1, 10, 10])
    """

    cam = "GradCAM"
    source = "Selvaraju et al., Grad-CAM, ICCV 2017"


class GradcamPlusPlus(GradcamMethod):
    """Channels weighted by their positive gradients, those weighted by higher derivatives."""

    cam = "GradCAMPlusPlus"
    source = "Chattopadhay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063"


class GradcamElementwise(GradcamMethod):
    """The positive part of gradient times activation, summed over channels."""

    cam = "GradCAMElementWise"
    source = "pytorch-grad-cam's own"


class Xgradcam(GradcamMethod):
    """Channels weighted by their gradients' mean, weighted by the activations."""

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
    """The first principal component of activation times |gradient|, its larger side positive."""

    cam = "SegEigenCAM"
    source = "Chung and Ying, Seg-Eigen-CAM, Applied Sciences 15(13), 2025"


class FeatureMethod(GradcamMethod):
    """A CAM of the features alone, without a class and without gradients."""

    class_specific = False
    backwards = 0


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
# What else pytorch_grad_cam offers, by the names of its classes, and why it is not offered here.
REFUSED = {
    "FullGrad": "it adds up the biases of convolutions and batch norms, which a ViT has none of but in its stem",
    "AblationCAM": "it replaces a layer inside the model for its run and ablates a channel by -1e7, which saturates "
    "every softmax behind it",
    "ShapleyCAM": "it differentiates twice, which fused attention kernels cannot be",
    "ScoreCAM": "it runs the model once a channel and image (hundreds of passes); `occlusion` asks the same of every "
    "patch",
    "RandomCAM": "it is noise that differs from call to call; `random_map` is the seeded control",
    "FinerCAM": "it is a target, not a map: give `gradcam` a function as `target` that subtracts the similar classes",
    "RefineCAM": "it multiplies the maps of another CAM at several layers: multiply the `patch_map` of "
    "GradcamPlusPlus(model, layer=...), each divided by its maximum",
    "SESS": "it runs another CAM on crops of the image enlarged to twelve sizes, 122 for a square one: explain crops "
    "of your own",
    "GuidedBackpropReLUModel": "it changes the backward pass of ReLUs, and a ViT has other activations",
    "DeepFeatureFactorization": "it clusters the features of a layer into concepts and gives no map of an answer",
}


def refusal(name: str) -> str:
    """Say why a class of pytorch_grad_cam is not offered, in any common spelling of its name; else nothing.

    Example:
        >>> refusal("shapley-cam")
        'ShapleyCAM is not offered: it differentiates twice, which fused attention kernels cannot be.'
        >>> refusal("gradcam")
        ''
    """
    reasons = (f"{cam} is not offered: {why}." for cam, why in REFUSED.items() if _plain(cam) == _plain(name))
    return next(reasons, "")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
