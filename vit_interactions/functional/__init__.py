"""The mathematics as pure functions on tensors, without models or state."""

from vit_interactions.functional.attention import attention_gradient as attention_gradient
from vit_interactions.functional.attention import (
    attention_probabilities as attention_probabilities,
)
from vit_interactions.functional.attention_sinks import AttentionSinks as AttentionSinks
from vit_interactions.functional.feature_pca import component_colors as component_colors
from vit_interactions.functional.feature_pca import principal_components as principal_components
from vit_interactions.functional.indiscriminative import column_variance as column_variance
from vit_interactions.functional.indiscriminative import (
    indiscriminative_patches as indiscriminative_patches,
)
from vit_interactions.functional.indiscriminative import informativeness as informativeness
from vit_interactions.functional.responsive_field import ResponsiveField as ResponsiveField
from vit_interactions.functional.responsive_field import field_tendency as field_tendency
from vit_interactions.functional.responsive_field import responsive_field as responsive_field
from vit_interactions.functional.rollout import discard_smallest as discard_smallest
from vit_interactions.functional.rollout import fuse_heads as fuse_heads
from vit_interactions.functional.rollout import rollout as rollout
from vit_interactions.functional.similarity import cosine_similarity as cosine_similarity
from vit_interactions.functional.smallest_boxes import smallest_boxes as smallest_boxes
from vit_interactions.functional.uncertainty import RunningUncertainty as RunningUncertainty
from vit_interactions.functional.uncertainty import uncertainty as uncertainty
from vit_interactions.functional.window_free import window_free_attention as window_free_attention
from vit_interactions.functional.window_free import window_free_logits as window_free_logits
from vit_interactions.functional.window_free import window_free_loss as window_free_loss
from vit_interactions.functional.window_free import window_free_mask as window_free_mask
from vit_interactions.functional.windows import adaptive_windows as adaptive_windows
from vit_interactions.functional.windows import bounding_boxes as bounding_boxes
from vit_interactions.functional.windows import relevant_pairs as relevant_pairs
from vit_interactions.functional.windows import window_masks as window_masks
from vit_interactions.functional.windows import window_operations as window_operations
