"""The refusal that every part of the library uses when a model cannot be explained correctly."""


class UnsupportedModelError(ValueError):
    """The model's attention cannot be read as attention among the patches of one image.

    The message names the layer, the reason and what to do.
    """
