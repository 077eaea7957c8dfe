"""Base class of methods that use gradients: one forward and one backward pass, then layer by layer.

The gradient at a layer's attention is computed from the gradient at its output z and from its values, so the gradients
of all layers are never in memory at once.
"""

from typing import Any

from torch import Tensor, nn

from vit_interactions.attention.evaluation_copy import evaluated
from vit_interactions.attention.observe import Backtrace, observe_gradients
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.libra_grad import Gradient, check_gradient, gradient_rules
from vit_interactions.explain.targets import require_target, select_target


class GradientExplainer(Explainer):
    """Base class of methods that use the gradient of a score at the attention of each layer."""

    class_specific = True
    backwards = 1

    def __init__(self, model: nn.Module, gradient: Gradient = "plain") -> None:
        """Create the explainer.

        Args:
            model: any ViT.
            gradient: "plain", or "libra" for LibraGrad's backward pass, see `LibraRules`.

        Raises:
            ValueError: an unknown gradient.
        """
        super().__init__(model)
        self.gradient = check_gradient(gradient)

    def _backtrace(self, inputs: Tensor, target: Any, additional_forward_args: Any, first: int = 0) -> Backtrace:
        """Run the model forward and backward once, from the score of the target to the layer `first`.

        Raises:
            UnsupportedModelError: a score without a gradient; for LibraGrad, an operation without a rule.
            ValueError: no target.
        """
        require_target(type(self).__name__, target)

        model = self.model if self.gradient == "plain" else evaluated(self.model)
        rules = gradient_rules(self.gradient, model)

        def score(output: Any) -> Tensor:
            scores = select_target(output, target, len(inputs))
            if rules is not None:
                rules.check_graph(scores)
            return scores

        return observe_gradients(model, inputs, additional_forward_args, score, rules, first)
