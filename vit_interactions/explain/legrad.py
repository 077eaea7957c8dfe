"""LeGrad: the sensitivity of the score of each block's features to that block's attention.

Source: Bousselham, Boggust, Chaybouti, Strobelt and Kuehne, "LeGrad: An Explainability Method for Vision Transformers
via Feature Formation Sensitivity", ICCV 2025, arXiv 2404.03214. Their correction with an "empty" prompt, which
masks the map by that of a text without a class, is not offered: it applies only to scores from texts.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vit_interactions.attention.derivatives import raise_cut
from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.examine import Probe
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.observe import guarded
from vit_interactions.attention.own_input import differentiable
from vit_interactions.attention.probing.request import as_arguments
from vit_interactions.attention.record import (
    AttentionCall,
    AttentionRecord,
    intercept,
    ordered_keys,
    output_gradients,
)
from vit_interactions.explain.attention_path import same_class
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.logit_lens import enclosing_blocks, keeping_states, with_last_state
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.functional.legrad import layer_sensitivity
from vit_interactions.utilities.checks import check_choice

Pool = Literal["mean_all", "model"]


class LeGrad(GradientExplainer):
    """The amount by which attention to a patch raises the score of each block's own features.

    With X_l the tokens after block l, read as if the model ended there:

        s_l = head(norm(pool(X_l)));  map = Σ_l mean_h mean_i max(∂s_l/∂A_l, 0)[i, :]

    The derivative reaches A_l through block l alone. Models with an attention-pooling head follow the authors' variant
    for SigLIP, for every `pool`: they pool X_l themselves, and the gradient at the pooling head's attention (first
    latent) replaces that at A_l. Values are ≥ 0 and proportional to the score; the attention itself is not used.

    Class tokens, distillation tokens and averages are all read by the model's own code after its last block, so every
    readout is supported. `pool="model"` keeps the model's own order of norm and pooling. One forward pass runs
    the blocks; then the rest of the model runs forward and backward once per used block.

    Example:
        >>> import timm, torch
        >>> explainer = LeGrad(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.ones(1, 3, 160, 160), target=7).shape
        torch.Size([1, 10, 10])
    """

    forwards, backwards = 3, 2  # with the default of two blocks
    quantity = "sensitivity of the blocks' scores"
    source = "Bousselham et al., LeGrad, ICCV 2025, arXiv 2404.03214"

    def __init__(self, model: nn.Module, pool: Pool = "mean_all", layers: int | Literal["all"] = -2) -> None:
        """Create the explainer.

        Args:
            model: a ViT whose blocks follow one another in a list, with one attention layer each.
            pool: "mean_all", the mean over all tokens, as the authors' code does; or "model", the model's own.
            layers: the first block used, counted from the end: -2 uses the last two, as in the authors' code; or
                "all".

        Raises:
            ValueError: an option outside its range; when explaining, a model with fewer blocks.
        """
        super().__init__(model)
        check_choice("pool", pool, get_args(Pool))
        if layers != "all" and not (isinstance(layers, int) and layers < 0):
            raise ValueError(f'`layers` must be an integer < 0 or "all", got {layers!r}.')
        self.pool, self.layers = pool, layers

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        return self._on_copy()._sensitivity(inputs, target, additional_forward_args)

    def _sensitivity(
        self, inputs: Tensor, target: Any, additional_forward_args: Any
    ) -> tuple[Tensor, TokenLayout]:
        arguments = as_arguments(additional_forward_args)
        total = inputs.new_zeros(1, dtype=torch.float32)

        def score(output: Any) -> Tensor:
            return select_target(output, target, len(inputs))

        def keep(call: AttentionCall, layout: TokenLayout) -> None:
            calls.append(call)

        with differentiable(inputs) as leaf:
            with guarded(self.model, leaf, additional_forward_args, keep, score=score) as guard:
                blocks, used = self._blocks(guard.probe)
                calls: deque[AttentionCall] = deque(maxlen=used)
                with keeping_states(blocks, used, guard.layout.tokens) as states:
                    output = self.model(leaf, *arguments)
            guard.finish()
            guard.scored.check(output, score, additional_forward_args)
            score(output)  # raises for classes and shapes that do not fit
            target = same_class(output, target)
            pooling = bool(guard.record.pool_calls)
            read = _detached if pooling else READ[self.pool]
            for call, state in zip(calls, states, strict=True):
                record = AttentionRecord(self.model, lambda *_: guard.layout)
                with intercept(record, self.model, record.take), with_last_state(blocks, read(state)):
                    output = self.model(leaf, *arguments)
                block_score = self._finite(select_target(output, target).sum())
                used_call = ordered_keys(record.pool_calls[-1], guard.layout) if pooling else call
                gradient = used_call.attention_grad(output_gradients(self.model, block_score, [used_call])[0])
                # If a pooling head has several latents, the model reads the first.
                total = total + layer_sensitivity(gradient[:, :, :1] if pooling else gradient)
        # Patches come last; a pooling head may attend to patches only, without prefix tokens.
        return total[:, -guard.layout.patches :], guard.layout

    def _blocks(self, probe: Probe) -> tuple[list[nn.Module], int]:
        """Find the model's blocks, and the number of last blocks that are used."""
        if probe.calls is None or probe.structure is None:
            raise_cut(self.model, probe.unobserved.rstrip("."))
        blocks = enclosing_blocks(self.model, [probe.calls[layer[0]].name for layer in probe.structure.layers])
        used = len(blocks) if self.layers == "all" else -self.layers
        if used > len(blocks):
            raise ValueError(f"`layers` must be >= {-len(blocks)}, the model's blocks, got {self.layers}.")
        return blocks, used

    def _finite(self, score: Tensor) -> Tensor:
        if score.isfinite():
            return score
        raise UnsupportedModelError(
            f"the score that {type(self.model).__name__} would have if it ended after one of its blocks cannot be "
            "computed: it also depends on earlier blocks, or it overflowed. Explain the ViT itself, and pass the "
            "rest of the computation as `target`."
        )


def _mean_of_all(state: Tensor) -> Tensor:
    """Replace every token with the mean token, so that any pooling returns exactly that mean."""
    return state.mean(1, keepdim=True).expand_as(state)


def _detached(state: Tensor) -> Tensor:
    """Start the graph here, because the pooling head's attention replaces the block's."""
    return state.detach().requires_grad_()


READ: dict[Pool, Callable[[Tensor], Tensor]] = {"mean_all": _mean_of_all, "model": lambda state: state}
