"""Explanations of how the patches of a Vision Transformer interact."""

from importlib.metadata import version as _version

from vit_interactions.attention import AttentionCall as AttentionCall
from vit_interactions.attention import AttentionRecord as AttentionRecord
from vit_interactions.attention import Probe as Probe
from vit_interactions.attention import TokenLayout as TokenLayout
from vit_interactions.attention import UnprobedModelWarning as UnprobedModelWarning
from vit_interactions.attention import UnsupportedModelError as UnsupportedModelError
from vit_interactions.attention import probe as probe
from vit_interactions.attention import record_attention as record_attention
from vit_interactions.attention import state_layout as state_layout
from vit_interactions.attention import token_layout as token_layout
from vit_interactions.compare import compare as compare
from vit_interactions.explain import EXPLAINERS as EXPLAINERS
from vit_interactions.explain import GMAR as GMAR
from vit_interactions.explain import TIS as TIS
from vit_interactions.explain import AttentionFlow as AttentionFlow
from vit_interactions.explain import AttentionGradCAM as AttentionGradCAM
from vit_interactions.explain import AttentionGuidedCAM as AttentionGuidedCAM
from vit_interactions.explain import AttentionRollout as AttentionRollout
from vit_interactions.explain import AttnLRP as AttnLRP
from vit_interactions.explain import BeyondIntuition as BeyondIntuition
from vit_interactions.explain import DynamicAccumulatedAttention as DynamicAccumulatedAttention
from vit_interactions.explain import Explainer as Explainer
from vit_interactions.explain import GenericAttention as GenericAttention
from vit_interactions.explain import GradientRollout as GradientRollout
from vit_interactions.explain import IndiscriminativePatches as IndiscriminativePatches
from vit_interactions.explain import InteractionCurve as InteractionCurve
from vit_interactions.explain import InteractionUncertainty as InteractionUncertainty
from vit_interactions.explain import LeGrad as LeGrad
from vit_interactions.explain import MemoryBank as MemoryBank
from vit_interactions.explain import PatchSimilarity as PatchSimilarity
from vit_interactions.explain import RandomMap as RandomMap
from vit_interactions.explain import RawAttention as RawAttention
from vit_interactions.explain import ResponsiveFieldSize as ResponsiveFieldSize
from vit_interactions.explain import ResponsiveFieldTendency as ResponsiveFieldTendency
from vit_interactions.explain import TokenAblation as TokenAblation
from vit_interactions.explain import TransformerAttribution as TransformerAttribution
from vit_interactions.explain import TransitionAttention as TransitionAttention
from vit_interactions.explain import ZeroMapWarning as ZeroMapWarning
from vit_interactions.explain import attention_sinks as attention_sinks
from vit_interactions.explain import feature_pca as feature_pca
from vit_interactions.explain import interaction_curve as interaction_curve
from vit_interactions.explain import patch_features as patch_features
from vit_interactions.explorer import ExplorerPage as ExplorerPage
from vit_interactions.explorer import explorer as explorer
from vit_interactions.functional import AttentionSinks as AttentionSinks
from vit_interactions.functional import ResponsiveField as ResponsiveField
from vit_interactions.functional import responsive_field as responsive_field
from vit_interactions.models import record_windows as record_windows
from vit_interactions.training.explain_callback import ExplainCallback as ExplainCallback

__version__ = _version("vit_interactions")
