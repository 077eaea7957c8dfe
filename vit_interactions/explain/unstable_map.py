"""Maps that rounding decides: returned, with a warning, since nothing in their picture tells."""

import warnings

from torch import Tensor

LIMIT = 0.99  # rank correlation between two maps that differ in rounding only


class UnstableMapWarning(UserWarning):
    """A method's map of an image depends on the last digits of the model's numbers.

    The map is right for the model as it is, but a change of its weights in the seventh digit gives another one.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", UnstableMapWarning)
    """


def rank_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Compute the rank correlation of maps (batch, patches) with their partners, (batch,) in float64.

    Equal values are ranked in the order of the patches.

    Example:
        >>> import torch
        >>> rank_agreement(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 5.0, 4.0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    ranks = [maps.argsort(dim=1, stable=True).argsort(1).double() for maps in (first, second)]
    first, second = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    agreement: Tensor = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    return agreement


def warn_of_rounding(method: str, exact: Tensor, rounded: Tensor) -> None:
    """Warn of maps (batch, patches) whose rank correlation with those of float32 arithmetic is below `LIMIT`.

    Example:
        >>> import torch
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_rounding("Method", torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 5.0, 4.0]]))
        >>> str(caught[0].message).split(":")[0]
        "Method's map of image 0 in a batch of 1 is unstable"
    """
    agreement = rank_agreement(exact.cpu(), rounded.cpu())
    unstable = (agreement < LIMIT).nonzero().flatten().tolist()
    if unstable:
        images = f"image{'' if len(unstable) == 1 else 's'} {', '.join(map(str, unstable))}"
        warnings.warn(
            f"{method}'s map of {images} in a batch of {len(exact)} is unstable: the same computation in float32 "
            f"ranks the patches differently (rank correlation down to {agreement.min():.2f}), so a change of the "
            "weights in the seventh digit changes the map. Do not read single patches, or use GenericAttention.",
            UnstableMapWarning,
            stacklevel=5,  # the line that asks for the map
        )
