"""A warning for maps that are zero everywhere, because a figure of one looks like a bug."""

import warnings

from torch import Tensor


class ZeroMapWarning(UserWarning):
    """A method found nothing in an image: its map is zero everywhere.

    Methods that keep only positive evidence return such a map if all evidence is against the class. Others return one
    if the gradient of the score, or the variation of attention, is zero.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", ZeroMapWarning)
    """


def warn_of_zeros(method: str, maps: Tensor) -> None:
    """Warn about maps (batch, ...) that are zero everywhere, naming the method and the images.

    Example:
        >>> import torch
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_zeros("Gradcam", torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        >>> str(caught[0].message)
        'Gradcam found nothing in image 0 of a batch of 2: the map is zero everywhere.'
    """
    zero = maps.flatten(1).eq(0).all(1).nonzero().flatten().tolist()
    if zero:
        images = f"image{'' if len(zero) == 1 else 's'} {', '.join(map(str, zero))}"
        warnings.warn(
            f"{method} found nothing in {images} of a batch of {len(maps)}: the map is zero everywhere.",
            ZeroMapWarning,
            stacklevel=4,  # the caller's line
        )
