"""Vision Transformers with attention windows, as timm models; importing this package registers them."""

from vit_interactions.models import mini as mini
from vit_interactions.models.adaptive_window import AdaptiveWindowViT as AdaptiveWindowViT
from vit_interactions.models.record_windows import WindowRecord as WindowRecord
from vit_interactions.models.record_windows import record_windows as record_windows
from vit_interactions.models.winft import WindowFreeAttention as WindowFreeAttention
from vit_interactions.models.winft import WindowFreeTransformer as WindowFreeTransformer
