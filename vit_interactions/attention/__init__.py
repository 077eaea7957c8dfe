"""Reading attention from any ViT, without touching it."""

from vit_interactions.attention.declared import state_layout as state_layout
from vit_interactions.attention.errors import UnprobedModelWarning as UnprobedModelWarning
from vit_interactions.attention.errors import UnsupportedModelError as UnsupportedModelError
from vit_interactions.attention.examine import Probe as Probe
from vit_interactions.attention.layout import TokenLayout as TokenLayout
from vit_interactions.attention.observe import record_attention as record_attention
from vit_interactions.attention.probe import probe as probe
from vit_interactions.attention.probe import token_layout as token_layout
from vit_interactions.attention.record import AttentionCall as AttentionCall
from vit_interactions.attention.record import AttentionRecord as AttentionRecord
from vit_interactions.attention.unwrap import unwrap as unwrap
