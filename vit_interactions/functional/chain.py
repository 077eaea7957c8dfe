"""Products of layer matrices applied to a readout, as chains of vectors.

p R with R a product of L matrices costs L · tokens² instead of L · tokens³ operations, and needs one matrix at a time.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from vit_interactions.functional.attention import without_autocast

Order = Literal["top_down", "as_published"]


def apply_residual(vector: Tensor, matrix: Tensor, alpha: float = 1.0, *, normalize: bool) -> Tensor:
    """Compute vector · (matrix + α I), with the rows of the sum normalized to sum 1 if `normalize`.

    Args:
        vector: (batch, tokens), or several vectors per image, (batch, vectors, tokens).
        matrix: (batch, tokens, tokens), entries ≥ 0.
        alpha: weight of the identity, ≥ 0.
        normalize: divide row i by Σ_j matrix_ij + α; a row of zeros stays zero.

    Returns:
        The shape of `vector`.

    Example:
        >>> apply_residual(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]), normalize=True)
        tensor([[0.7500, 0.2500]])
    """
    rows = vector.unsqueeze(1) if vector.ndim == 2 else vector
    if normalize:
        total = matrix.sum(-1) + alpha
        rows = rows / total.masked_fill(total == 0, torch.inf).unsqueeze(1)
    with without_autocast(matrix):
        return (rows @ matrix + alpha * rows).view(vector.shape)


def chain(readout: Tensor, matrices: Iterable[Tensor], alpha: float = 1.0, *, normalize: bool) -> Tensor:
    """Compute readout · Π (matrix + α I), with the first matrix next to the readout.

    Args:
        readout: (batch, tokens), or several readouts per image, (batch, readouts, tokens), as from `patch_readouts`.
        matrices: (batch, tokens, tokens) each; from the last layer to the first for a map of the input.
        alpha: weight of the identity, ≥ 0.
        normalize: normalize rows to sum 1.

    Returns:
        The shape of `readout`.

    Example:
        >>> chain(torch.tensor([[1.0, 0.0]]), [torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])], normalize=False)
        tensor([[1., 2.]])
    """
    for matrix in matrices:
        readout = apply_residual(readout.to(matrix.dtype), matrix, alpha, normalize=normalize)
    return readout


def chain_without_identity(readout: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Compute readout · (Π (matrix + I) - I), with the first matrix next to the readout.

    With g = readout · (Π - I) so far, one more factor gives g + (readout + g) · matrix. Subtracting the readout from
    the result of `chain` would lose small matrices to rounding.

    Args:
        readout: (batch, tokens), or (batch, readouts, tokens).
        matrices: (batch, tokens, tokens) each; from the last layer to the first for a map of the input.

    Returns:
        The shape of `readout`.

    Example:
        >>> chain_without_identity(torch.tensor([[1.0, 0.0]]), [torch.tensor([[[1e-9, 2e-9], [0.0, 0.0]]])])
        tensor([[1.0000e-09, 2.0000e-09]])
    """
    gained = torch.zeros_like(readout)
    for matrix in matrices:
        readout = readout.to(matrix.dtype)
        gained = gained + apply_residual(readout + gained, matrix, 0.0, normalize=False)
    return gained


def patch_readouts(readout: Tensor, prefix: int) -> Tensor:
    """Create one readout per patch, which reads that patch alone: with it, a chain gives the map of every patch.

    A chain of all patches costs layers · tokens² · patches operations.

    Args:
        readout: (batch, tokens); gives the shape, the type and the device.
        prefix: number of tokens before the first patch.

    Returns:
        (batch, patches, tokens), rows of the identity.

    Example:
        >>> patch_readouts(torch.zeros(1, 3), prefix=1)
        tensor([[[0., 1., 0.],
                 [0., 0., 1.]]])
    """
    tokens = readout.shape[1]
    rows = torch.eye(tokens, dtype=readout.dtype, device=readout.device)[prefix:]
    return rows.expand(len(readout), -1, -1)


def horner(readout: Tensor, matrices: Iterable[Tensor], alpha: float = 1.0, order: Order = "top_down") -> Tensor:
    """Compute readout · R for a recursion that adds the identity once per layer instead of in every factor.

    "top_down" is R ← M R + α I from R = I, so that R = α (I + M_L + M_L M_{L-1} + ...) + M_L ··· M_1. "as_published"
    is R ← R M + α I, as printed in some papers, which multiplies layers in ascending order in reverse.

    Args:
        readout: (batch, tokens), or (batch, readouts, tokens).
        matrices: (batch, tokens, tokens) each, the one next to the readout first: M_L, ..., M_1 for "top_down",
            M_1, ..., M_L for "as_published".
        alpha: weight of the identity.
        order: "top_down" or "as_published".

    Returns:
        The shape of `readout`.

    Example:
        >>> readout = torch.tensor([[1.0, 0.0]])
        >>> matrices = [torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])]
        >>> horner(readout, matrices), horner(readout, matrices, order="as_published")
        (tensor([[1.5000, 1.0000]]), tensor([[1.0000, 1.5000]]))
    """
    vector, total = readout, torch.zeros_like(readout)
    for matrix in matrices:
        vector = vector.to(matrix.dtype)
        if order == "top_down":
            total = total + alpha * vector
        vector = apply_residual(vector, matrix, 0.0, normalize=False)
        if order == "as_published":
            vector = vector + alpha * readout
    return total + vector
