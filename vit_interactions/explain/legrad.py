"""LeGrad: how sensitive the score of each block's own features is to that block's attention.

Source: Bousselham, Boggust, Chaybouti, Strobelt and Kuehne, "LeGrad: An Explainability Method for Vision Transformers
via Feature Formation Sensitivity", ICCV 2025, arXiv 2404.03214.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vit_interactions.attention.errors import UnsupportedModelError
from vit_interactions.attention.layout import TokenLayout
from vit_interactions.attention.module_inputs import ModuleInput, module_inputs
from vit_interactions.attention.observe import evaluating
from vit_interactions.attention.record import AttentionCall, record_attention
from vit_interactions.attention.unwrap import unwrap
from vit_interactions.explain.attention_path import same_class
from vit_interactions.explain.gradients import GradientExplainer
from vit_interactions.explain.targets import require_target, select_target
from vit_interactions.functional.checks import check_choice
from vit_interactions.functional.legrad import layer_sensitivity

Pool = Literal["mean_all", "model"]
POOLS: tuple[Pool, ...] = ("mean_all", "model")
PARTS = ("blocks", "norm", "forward_head")


class LeGrad(GradientExplainer):
    """How much attention to a patch raises the score that each block's features have on their own.

    With X_l the tokens after block l, read as if the model ended there:

        s_l = head(norm(pool(X_l)));  map = Σ_l mean_h mean_i max(∂s_l/∂A_l, 0)[i, :]

    ∂ reaches A_l through block l alone. Models with an attention-pooling head follow the authors' variant for SigLIP,
    whatever `pool` is: their own pooling of X_l, and the gradient at the pooling head's attention (first latent)
    in place of A_l. Every value is ≥ 0 and proportional to the score; attention itself takes no part.

    Class tokens, distillation tokens and averages are all read by the model's own head, so no readout needs an
    extension. With `pool="model"` the model's own order of norm and pooling holds.

    Cost: a forward pass without a graph, then each used block once more, forward and backward, one at a time.

    Example:
        >>> import timm, torch
        >>> explainer = LeGrad(timm.create_model("test_vit"))
        >>> explainer.patch_map(torch.ones(1, 3, 160, 160), target=7).shape
        torch.Size([1, 10, 10])
    """

    backwards = 2
    quantity = "sensitivity of the blocks' scores"
    source = "Bousselham et al., LeGrad, ICCV 2025, arXiv 2404.03214"

    def __init__(self, model: nn.Module, pool: Pool = "mean_all", layers: int | Literal["all"] = -2) -> None:
        """Take the model and the options of the method.

        Args:
            model: a ViT with `blocks`, `norm` and `forward_head` as timm's have, alone or inside a module that
                gives out what it computes. Others are refused.
            pool: "mean_all", the mean over all tokens, as the authors' code does; or "model", the model's own.
            layers: the first block used, counted from the last: -2 are the last two, as in the authors' code; or
                "all".

        Raises:
            ValueError: an option outside its range; when explaining, a model of fewer blocks.
        """
        super().__init__(model)
        check_choice("pool", pool, POOLS)
        if layers != "all" and not (isinstance(layers, int) and layers < 0):
            raise ValueError(f'`layers` must be an integer < 0 or "all", but got {layers!r}.')
        self.pool, self.layers = pool, layers

    def _explain(self, inputs: Tensor, target: Any, additional_forward_args: Any) -> tuple[Tensor, TokenLayout]:
        require_target(type(self).__name__, target)
        vit: Any = next((m for m in self.model.modules() if all(hasattr(m, part) for part in PARTS)), None)
        blocks = [] if vit is None else [unwrap(block) for block in vit.blocks]
        callers: list[nn.Module] = []

        def note(call: AttentionCall, layout: TokenLayout) -> None:
            callers.append(self.model.get_submodule(call.name))

        # Neither the caller's `no_grad` nor `inference_mode` may keep the graph from being built.
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.model):
            with module_inputs(blocks) as seen:
                observed = self._observe(inputs, target, additional_forward_args, note)
            self._check_blocks(vit, blocks, callers, seen)
            lens = _Lens(self.model, vit, self.pool, same_class(observed.output, target))
            lens.check(blocks[-1], seen[blocks[-1]][0], observed.output)
            return self._sum_terms(lens, [(block, seen[block][0]) for block in blocks], observed.layout)

    def _sum_terms(
        self, lens: "_Lens", blocks: list[tuple[nn.Module, ModuleInput]], layout: TokenLayout
    ) -> tuple[Tensor, TokenLayout]:
        used = len(blocks) if self.layers == "all" else -self.layers
        if used > len(blocks):
            raise ValueError(f"`layers` must be >= {-len(blocks)}, the model's blocks, but got {self.layers}.")
        terms = [
            layer_sensitivity(lens.gradient(block, given, layout.readout == "map"))
            for block, given in blocks[-used:]
        ]
        # The prefix comes first, and a pooling head may attend to the patches only.
        return torch.stack(terms).sum(0)[:, -layout.patches :], layout

    def _check_blocks(
        self,
        vit: Any,
        blocks: list[nn.Module],
        callers: list[nn.Module],
        seen: dict[nn.Module, list[ModuleInput]],
    ) -> None:
        """Refuse a model that does not run one attention in each of its blocks."""
        if vit is None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no `blocks`, `norm` and `forward_head` as timm's ViTs have, so "
                "what its blocks would answer on their own cannot be computed. Use the timm model of the same "
                "architecture."
            )
        once = all(len(seen[block]) == 1 and seen[block][0].args for block in blocks)
        matched = len(callers) == len(blocks) and all(
            any(part is caller for part in block.modules()) for caller, block in zip(callers, blocks, strict=True)
        )
        if not (once and matched):
            raise UnsupportedModelError(
                f"the {len(blocks)} `blocks` of {type(vit).__name__} run {len(callers)} attention layers, or a "
                "block runs more than once or without positional input; LeGrad needs one attention in each block. "
                "Use a ViT of plain blocks."
            )


class _Lens:
    """Reads what a model would answer if it ended after one of its blocks."""

    def __init__(self, model: nn.Module, vit: Any, pool: Pool, target: Any) -> None:
        self.model, self.vit, self.pool, self.target = model, vit, pool, target

    def gradient(self, block: nn.Module, given: ModuleInput, pooling: bool) -> Tensor:
        """Compute the gradient of a block's own score at its attention, or at the pooling head's."""
        with record_attention(self.model) as record:
            state = _run(block, given)
            if pooling:
                state = state.detach().requires_grad_()
            elif self.pool == "mean_all":
                # Whatever the model pools of equal tokens is that token.
                state = state.mean(1, keepdim=True).expand_as(state)
            score = select_target(self._answer(state), self.target)
        call = (record.pool_calls if pooling else record.calls)[-1]
        (gradient,) = torch.autograd.grad(score.sum(), [call.output], allow_unused=True, materialize_grads=True)
        at_attention = call.detached().attention_grad(gradient)
        return at_attention[:, :, :1] if pooling else at_attention

    @torch.no_grad()
    def check(self, last: nn.Module, given: ModuleInput, output: Any) -> None:
        """Raise UnsupportedModelError unless norm and head make the model's output of its last block's."""
        with record_attention(self.model):
            answer = self._answer(_run(last, given))
        if not (isinstance(output, Tensor) and answer.shape == output.shape and _near(answer, output)):
            raise UnsupportedModelError(
                f"the output of {type(self.model).__name__} is not what `norm` and `forward_head` of "
                f"{type(self.vit).__name__} make of its last block's, so what the blocks would answer on their own "
                "cannot be computed. Explain the ViT itself, with what is computed from its output as `target`."
            )

    def _answer(self, state: Tensor) -> Tensor:
        answer: Tensor = self.vit.forward_head(self.vit.norm(state))
        return answer


def _run(block: nn.Module, given: ModuleInput) -> Tensor:
    state = given.args[0].detach().clone().requires_grad_()
    output: Tensor = block(state, *given.args[1:], **given.kwargs)
    return output


def _near(actual: Tensor, expected: Tensor) -> bool:
    return bool((actual - expected).abs().max() <= 1e-2 * expected.abs().max())
