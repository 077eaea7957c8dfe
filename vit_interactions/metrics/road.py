"""ROAD: MoRF and LeRF with removed pixels filled in from their neighbours.

Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022. The equations of
the filling in, noisy linear imputation, are pytorch-grad-cam's. Its choice of pixels is not used: it removes what lies
at or above a percentile of the map, which is the whole image where much of the map is 0. Here equal values are put in
an order drawn by the seed, and exactly the stated share of the patches is removed.
"""

from collections.abc import Sequence

import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from vit_interactions.metrics.class_score import class_score, remembered
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.pixel_scores import pixel_mask
from vit_interactions.utilities.checks import check_fraction

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def fill_in(image: Tensor, shown: Tensor, *, noise: float, seed: int) -> Tensor:
    """Replace hidden pixels by the weighted mean of their neighbours, hidden ones included, plus noise.

    Args:
        image: (channels, height, width).
        shown: (height, width) bool, not all False.
        noise: standard deviation of what is added, in normalised numbers.
        seed: of the noise.

    Returns:
        Of the image's shape, type and device.

    Example:
        >>> image = torch.tensor([[[1.0, 9.0, 1.0]] * 3])
        >>> shown = torch.tensor([[True, False, True]] * 3)
        >>> fill_in(image, shown, noise=0.0, seed=0)[0, 0]
        tensor([1., 1., 1.])
    """
    # Loads OpenCV and scikit-learn.
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer, neighbors_weights

    if shown.all():
        return image
    values, mask = image.detach().to("cpu", torch.float64, copy=True), shown.cpu()
    matrix, right = NoisyLinearImputer.setup_sparse_system(mask.float().numpy(), values.numpy(), neighbors_weights)
    solution = torch.as_tensor(spsolve(csc_matrix(matrix), right)).reshape(right.shape).T
    drawn = torch.randn(
        solution.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    values[:, ~mask] = solution + noise * drawn
    return values.to(image)


def road(shares: Sequence[float] = SHARES, noise: float = 0.01, *, name: str = "road") -> Metric:
    """Make the metric: half the mean over the shares of LeRF - MoRF, as pytorch-grad-cam's ROADCombined.

    Args:
        shares: of the patches that are removed, each in (0, 1) and at least one patch, not all.
        noise: as in `fill_in`.
        name: what tables call it.

    Returns:
        Of its score's curve, (share of the patches that is removed, LeRF - MoRF).

    Example:
        >>> road((0.25, 0.5)).cost
        '4 forward passes and sparse linear systems, of seconds each where much of a large image is removed'
    """
    for share in shares:
        check_fraction("shares", share)
    if not shares:
        raise ValueError("`shares` must hold at least one share of the patches, but got none.")

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        patches = ranks.numel()
        counts = torch.tensor([min(max(round(share * patches), 1), patches - 1) for share in shares], device="cpu")
        most, least = ranks >= counts[:, None, None], ranks < patches - counts[:, None, None]
        scores = _scores(case, torch.cat([most, least]), noise)
        difference = scores[len(shares) :] - scores[: len(shares)]
        return Score(float(difference.mean() / 2), torch.stack([counts.double() / patches, difference], dim=1))

    return Metric(
        name=name,
        direction="higher",
        range=(-0.5, 0.5),
        source="Rong et al., ROAD, ICML 2022",
        parameters={
            "shares": tuple(shares),
            "noise": noise,
            "unit": "patch",
            "score": "by `output`",
            "ties": "seeded",
        },
        needs=frozenset(),
        cost=f"{2 * len(shares)} forward passes and sparse linear systems, of seconds each where much of a large image "
        "is removed",
        measure=measure,
    )


def _scores(case: Case, shown: Tensor, noise: float) -> Tensor:
    image = case.inputs[0]

    def ask(shown: Tensor) -> Tensor:
        pixels = pixel_mask(shown, case.layout, (image.shape[-2], image.shape[-1]))
        filled = [fill_in(image, mask, noise=noise, seed=case.seed) for mask in pixels]
        return class_score(case, torch.stack(filled))

    return remembered(case, f"road, noise {noise}", shown, ask)
