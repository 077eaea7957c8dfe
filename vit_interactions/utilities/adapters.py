"""The one table of what this package asks of the adapters: their modules by name, each imported where it is used."""

# What stands before the colon of a model's name -> the module whose `load` creates it.
MODELS = {
    "hf": "vit_interactions_adapters.huggingface_loading",
    "open_clip": "vit_interactions_adapters.open_clip",
    "torchvision": "vit_interactions_adapters.torchvision",
}
# The module whose `METHODS` are other libraries', by name.
METHODS = "vit_interactions_adapters.methods"
