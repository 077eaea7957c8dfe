"""Remove the wrappers that training puts around a model."""

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile, DataParallel and DistributedDataParallel wrappers.

    Args:
        model: any module; one that is not wrapped is returned as it is.

    Raises:
        TypeError: `model` is not a module.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> unwrap(nn.DataParallel(model)) is model
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
