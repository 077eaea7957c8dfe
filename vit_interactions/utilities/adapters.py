"""The modules of the adapters package that the core imports by name, each only when it is needed."""

# Prefix of a model name (before the colon) -> module whose `load` creates the model.
MODELS = {
    "hf": "vit_interactions_adapters.huggingface_loading",
    "open_clip": "vit_interactions_adapters.open_clip",
    "torchvision": "vit_interactions_adapters.torchvision",
}
# Module whose `METHODS` maps names to the methods of other libraries.
METHODS = "vit_interactions_adapters.methods"
