"""Other libraries' methods by name, to stand beside `vit_interactions.EXPLAINERS`; also on the command line."""

from vit_interactions import Explainer
from vit_interactions_adapters.captum_methods import CAPTUM_METHODS
from vit_interactions_adapters.gradcam_methods import GRADCAM_METHODS
from vit_interactions_adapters.gradcam_methods import refusal as refusal

METHODS: dict[str, type[Explainer]] = {**CAPTUM_METHODS, **GRADCAM_METHODS}
