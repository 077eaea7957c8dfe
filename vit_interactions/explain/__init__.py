"""The explainers: one file per method, and the table that lists them."""

import re

from vit_interactions.explain.attention_flow import AttentionFlow as AttentionFlow
from vit_interactions.explain.attention_grad_cam import AttentionGradCAM as AttentionGradCAM
from vit_interactions.explain.attention_guided_cam import AttentionGuidedCAM as AttentionGuidedCAM
from vit_interactions.explain.attention_rollout import AttentionRollout as AttentionRollout
from vit_interactions.explain.attention_sinks import attention_sinks as attention_sinks
from vit_interactions.explain.attn_lrp import AttnLRP as AttnLRP
from vit_interactions.explain.base import Explainer as Explainer
from vit_interactions.explain.beyond_intuition import BeyondIntuition as BeyondIntuition
from vit_interactions.explain.dynamic_accumulated_attention import (
    DynamicAccumulatedAttention as DynamicAccumulatedAttention,
)
from vit_interactions.explain.feature_pca import feature_pca as feature_pca
from vit_interactions.explain.generic_attention import GenericAttention as GenericAttention
from vit_interactions.explain.gmar import GMAR as GMAR
from vit_interactions.explain.gradient_rollout import GradientRollout as GradientRollout
from vit_interactions.explain.indiscriminative_patches import (
    IndiscriminativePatches as IndiscriminativePatches,
)
from vit_interactions.explain.interaction_curve import InteractionCurve as InteractionCurve
from vit_interactions.explain.interaction_curve import interaction_curve as interaction_curve
from vit_interactions.explain.interaction_uncertainty import (
    InteractionUncertainty as InteractionUncertainty,
)
from vit_interactions.explain.legrad import LeGrad as LeGrad
from vit_interactions.explain.memory_bank import MemoryBank as MemoryBank
from vit_interactions.explain.patch_features import patch_features as patch_features
from vit_interactions.explain.patch_similarity import PatchSimilarity as PatchSimilarity
from vit_interactions.explain.random_map import RandomMap as RandomMap
from vit_interactions.explain.raw_attention import RawAttention as RawAttention
from vit_interactions.explain.responsive_field_size import (
    ResponsiveFieldSize as ResponsiveFieldSize,
)
from vit_interactions.explain.responsive_field_tendency import (
    ResponsiveFieldTendency as ResponsiveFieldTendency,
)
from vit_interactions.explain.tis import TIS as TIS
from vit_interactions.explain.token_ablation import TokenAblation as TokenAblation
from vit_interactions.explain.transformer_attribution import TransformerAttribution as TransformerAttribution
from vit_interactions.explain.transition_attention import TransitionAttention as TransitionAttention
from vit_interactions.explain.zero_map import ZeroMapWarning as ZeroMapWarning


def method_name(explainer: type[Explainer]) -> str:
    """Return the name of a method, its class name in snake case.

    Example:
        >>> method_name(AttentionRollout)
        'attention_rollout'
    """
    return re.sub(
        r"(?<=[a-z0-9])(?=[A-Z])", "_", explainer.__name__.replace("CAM", "Cam").replace("LeGrad", "Legrad")
    ).lower()


EXPLAINERS: dict[str, type[Explainer]] = {
    method_name(explainer): explainer
    for explainer in (
        InteractionUncertainty,
        ResponsiveFieldSize,
        ResponsiveFieldTendency,
        IndiscriminativePatches,
        PatchSimilarity,
        RawAttention,
        AttentionRollout,
        AttentionFlow,
        GMAR,
        DynamicAccumulatedAttention,
        GradientRollout,
        GenericAttention,
        TransformerAttribution,
        TransitionAttention,
        BeyondIntuition,
        LeGrad,
        AttentionGuidedCAM,
        AttentionGradCAM,
        AttnLRP,
        TokenAblation,
        TIS,
        RandomMap,
    )
}
