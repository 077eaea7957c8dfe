"""Other libraries' methods by name, to stand beside `vit_interactions.EXPLAINERS` in comparisons."""

from vit_interactions import Explainer
from vit_interactions.explain import method_name
from vit_interactions_adapters.captum_methods import CAPTUM_METHODS
from vit_interactions_adapters.gradcam_methods import GRADCAM_METHODS

METHODS: dict[str, type[Explainer]] = {
    method_name(explainer): explainer for explainer in (*CAPTUM_METHODS, *GRADCAM_METHODS)
}
