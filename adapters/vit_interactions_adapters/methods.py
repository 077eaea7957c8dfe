"""captum's and pytorch-grad-cam's methods by name, in addition to `vit_interactions.EXPLAINERS`."""

from vit_interactions import Explainer
from vit_interactions_adapters.captum_methods import CAPTUM_METHODS
from vit_interactions_adapters.gradcam_methods import GRADCAM_METHODS
from vit_interactions_adapters.gradcam_methods import why_not_offered as why_not_offered

METHODS: dict[str, type[Explainer]] = {**CAPTUM_METHODS, **GRADCAM_METHODS}
