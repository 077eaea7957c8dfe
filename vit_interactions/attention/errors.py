"""Errors and warnings for models that cannot be explained correctly."""


class UnsupportedModelError(ValueError):
    """The model's attention cannot be read as attention among the patches of one image.

    The message names the layer, the reason and what to do.
    """


class UnobservableModelError(UnsupportedModelError):
    """The model's output has no gradient with respect to the image, so the model cannot be observed."""


class UnprobedModelWarning(UserWarning):
    """A model could not be observed, so its layout is the one that it declares.

    Example:
        >>> issubclass(UnprobedModelWarning, UserWarning)
        True
    """


class ImagesNotTakenError(ValueError):
    """The model failed for a random image of the size, type and device of the given ones."""


def named(module: str) -> str:
    """Name a module in a message; the model itself has an empty name.

    Example:
        >>> named("blocks.0.attn"), named("")
        ('`blocks.0.attn`', "the model's own `forward`")
    """
    return f"`{module}`" if module else "the model's own `forward`"
