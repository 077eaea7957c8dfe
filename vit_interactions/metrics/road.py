"""ROAD: MoRF and LeRF with noisy linear imputation of the removed pixels.

Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022. The imputation
is pytorch-grad-cam's. Its choice of pixels is not used: it removes all values at or above a percentile of the map,
which is the whole image if much of the map is 0. Here ties are in random order, and exactly the given fraction of the
patches is removed.
"""

from collections.abc import Sequence

import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from vit_interactions.metrics.class_score import cached_scores, class_score
from vit_interactions.metrics.metric import Case, Metric, Score
from vit_interactions.metrics.patch_map import check_map, relevance_ranks
from vit_interactions.metrics.perturbation_curves import patch_count
from vit_interactions.metrics.pixel_scores import pixel_mask
from vit_interactions.utilities.checks import check_fraction

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def impute(image: Tensor, shown: Tensor, *, noise: float, seed: int) -> Tensor:
    """Replace each hidden pixel by the weighted mean of its neighbors, including hidden ones, plus noise.

    Args:
        image: (channels, height, width).
        shown: (height, width) bool, not all False.
        noise: standard deviation of the noise, in normalized units.
        seed: random seed of the noise.

    Returns:
        Image of the same shape and type, on the same device.

    Example:
        >>> image = torch.tensor([[[1.0, 9.0, 1.0]] * 3])
        >>> shown = torch.tensor([[True, False, True]] * 3)
        >>> impute(image, shown, noise=0.0, seed=0)[0, 0]
        tensor([1., 1., 1.])
    """
    # Slow: imports OpenCV and scikit-learn.
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


def road(fractions: Sequence[float] = FRACTIONS, noise: float = 0.01, *, name: str = "road") -> Metric:
    """Create the metric: half the mean of LeRF - MoRF over the fractions, as in pytorch-grad-cam's ROADCombined.

    Args:
        fractions: fractions of the patches removed, each in (0, 1); at least one patch and not all are removed.
        noise: see `impute`.
        name: name in tables.

    Returns:
        The metric; the curve of its score is (fraction of the patches removed, LeRF - MoRF).

    Example:
        >>> road((0.25, 0.5)).cost
        '4 forward passes and sparse linear systems, which take seconds each for large images'
    """
    for fraction in fractions:
        check_fraction("fractions", fraction)
    if not fractions:
        raise ValueError("`fractions` must contain at least one fraction of the patches, got none.")

    def measure(case: Case, patch_map: Tensor) -> Score:
        ranks = relevance_ranks(check_map(patch_map, case.layout.grid), case.seed)
        patches = ranks.numel()
        counts = torch.tensor([patch_count(fraction, patches) for fraction in fractions], device="cpu")
        most, least = ranks >= counts[:, None, None], ranks < patches - counts[:, None, None]
        scores = _scores(case, torch.cat([most, least]), noise)
        difference = scores[len(fractions) :] - scores[: len(fractions)]
        return Score(float(difference.mean() / 2), torch.stack([counts.double() / patches, difference], dim=1))

    return Metric(
        name=name,
        direction="higher",
        range=(-0.5, 0.5),
        source="Rong et al., ROAD, ICML 2022",
        parameters={
            "fractions": tuple(fractions),
            "noise": noise,
            "unit": "patch",
            "score": "by `output`",
            "ties": "seeded",
        },
        needs=frozenset(),
        cost=f"{2 * len(fractions)} forward passes and sparse linear systems, which take seconds each for large images",
        measure=measure,
    )


def _scores(case: Case, shown: Tensor, noise: float) -> Tensor:
    image = case.inputs[0]

    def score(shown: Tensor) -> Tensor:
        pixels = pixel_mask(shown, case.layout, (image.shape[-2], image.shape[-1]))
        return class_score(
            case, torch.stack([impute(image, mask, noise=noise, seed=case.seed) for mask in pixels])
        )

    return cached_scores(case, f"road, noise {noise}", shown, score)
