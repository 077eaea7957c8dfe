"""Base class of methods that use gradients: one forward and one backward pass, then layer by layer.

The gradient at a layer's attention is computed from the gradient at its output z and from its values, so the gradients
of all layers are never in memory at once.
"""

from typing import Any

from torch import Tensor

from vit_interactions.attention.observe import Backtrace, observe_gradients
from vit_interactions.explain.base import Explainer
from vit_interactions.explain.targets import require_target, select_target


class GradientExplainer(Explainer):
    """Base class of methods that use the gradient of a score at the attention of each layer."""

    class_specific = True
    backwards = 1

    def _backtrace(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> Backtrace:
        """Run the model forward and backward once, from the score of the target.

        Raises:
            UnsupportedModelError: a score without a gradient.
            ValueError: no target.
        """
        require_target(type(self).__name__, target)

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        return observe_gradients(self.model, inputs, additional_forward_args, score)
