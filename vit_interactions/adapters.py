"""The one table of what this package asks of the adapters: their modules by name, each imported where it is used."""

# Packages whose models say where their patches are in words of their own -> the module whose `token_layout` reads them.
LAYOUTS = {
    "torchvision": "vit_interactions_adapters.torchvision",
    "transformers": "vit_interactions_adapters.huggingface",
}
# What stands before the colon of a model's name -> the module whose `load` creates it.
MODELS = {
    "hf": "vit_interactions_adapters.huggingface_loading",
    "torchvision": "vit_interactions_adapters.torchvision",
}
# The module whose `METHODS` are other libraries', by name.
METHODS = "vit_interactions_adapters.methods"
