"""The equations as slow loops over Python floats, to check the fast tensor code against.

Each function quotes its equation from "Visualizing and Understanding Patch Interactions in Vision Transformer"
(arXiv 2203.05922) or from Abnar and Zuidema, ACL 2020. One image, one patch, one number at a time; nothing is
shared with the package.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

Matrix = list[list[float]]
Window = tuple[int, int, int, int]


def variance(values: Sequence[float]) -> float:
    """Compute the population variance (1/n) Σ (x − mean x)²."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


def uncertainty(attentions: Sequence[Tensor], prefix: int = 0) -> Tensor:
    """Compute 𝒰 = (1/L) Σ_i (A_i − mean_i A)²,  U = (1/k) Σ_j (𝒰_j − mean_j 𝒰)²  (Eqs. 2, 3), over patches."""
    layers = [attention.double().tolist() for attention in attentions]
    batch, heads, tokens = attentions[0].shape[:3]
    patches = range(prefix, tokens)
    return torch.tensor(
        [
            [
                [
                    variance([variance([layer[b][j][p][i] for layer in layers]) for j in range(heads)])
                    for i in patches
                ]
                for p in patches
            ]
            for b in range(batch)
        ],
        dtype=torch.float64,
    )


def share(fraction: float, total: int) -> int:
    """Compute round(fraction · total), with the fraction as written in decimal."""
    return round(Fraction(str(fraction)) * total)


def candidates(uncertainty: Matrix, alpha: float) -> list[set[int]]:
    """Compute B_p = {p} ∪ {i : u_{p,i} ∈ U'}, U' the T = round(α N²) largest values; ties: lowest flat index."""
    count = len(uncertainty)
    entries = [(p, i) for p in range(count) for i in range(count)]
    entries.sort(key=lambda entry: (-uncertainty[entry[0]][entry[1]], entry[0] * count + entry[1]))
    members = [{p} for p in range(count)]
    for p, i in entries[: share(alpha, count * count)]:
        members[p].add(i)
    return members


def window(members: set[int], cols: int) -> Window:
    """Compute the bounding box (left, top, right, bottom) of patches, bounds inclusive (Eq. 4)."""
    xs, ys = [i % cols for i in members], [i // cols for i in members]
    return min(xs), min(ys), max(xs), max(ys)


def smallest_window(patch: int, members: set[int], grid: tuple[int, int], coverage: Fraction) -> Window:
    """Try every box around a patch: of those with at least the fraction of the members, the smallest area.

    Of equal areas the lowest top, then left, then bottom is taken.
    """
    rows, cols = grid
    y, x = divmod(patch, cols)
    found = []
    for top in range(y + 1):
        for left in range(x + 1):
            for bottom in range(y, rows):
                for right in range(x, cols):
                    inside = [i for i in members if top <= i // cols <= bottom and left <= i % cols <= right]
                    if len(inside) >= coverage * len(members):
                        found.append(((right - left + 1) * (bottom - top + 1), top, left, bottom, right))
    _, top, left, bottom, right = min(found)
    return left, top, right, bottom


def operations(windows: Sequence[Window]) -> int:
    """Compute O = Σ_p (right − left + 1)(bottom − top + 1)  (Eq. 5)."""
    return sum((right - left + 1) * (bottom - top + 1) for left, top, right, bottom in windows)


def dropped(uncertainty: Matrix, beta: float) -> set[int]:
    """Find D, the round(β N) patches of lowest v_i, the variance over p of U[:, i]; ties: lowest index."""
    count = len(uncertainty)
    column = [variance([uncertainty[p][i] for p in range(count)]) for i in range(count)]
    return set(sorted(range(count), key=lambda i: (column[i], i))[: share(beta, count)])


def fields(
    uncertainty: Matrix, grid: tuple[int, int], alpha: float, beta: float, field: str = "window"
) -> list[set[int]]:
    """Compute S_p = {p} ∪ (window of p without D), or as Eq. 6 is printed {p} ∪ (B_p without D)."""
    _, cols = grid
    gone = dropped(uncertainty, beta)
    result = []
    for p, members in enumerate(candidates(uncertainty, alpha)):
        if field == "window":
            left, top, right, bottom = window(members, cols)
            members = {y * cols + x for y in range(top, bottom + 1) for x in range(left, right + 1)}
        result.append({p} | (members - gone))
    return result


def tendency(p: int, members: set[int], cols: int) -> tuple[float, float]:
    """Compute R_p = (right − left, down − up) / its length, as offsets from p (Eq. 7); (0, 0) stays."""
    x, y = p % cols, p // cols
    left = x - min(i % cols for i in members)
    right = max(i % cols for i in members) - x
    up = y - min(i // cols for i in members)
    down = max(i // cols for i in members) - y
    horizontal, vertical = right - left, down - up
    length = math.sqrt(horizontal**2 + vertical**2)
    return (horizontal / length, vertical / length) if length else (0.0, 0.0)


def rollout(attentions: Sequence[Tensor], alpha: float = 1.0) -> Tensor:
    """Compute R = M_L ··· M_1, M_l = rownorm(E_l + α I), as a product of whole matrices, (batch, tokens, tokens)."""
    tokens = attentions[0].shape[-1]
    result = torch.eye(tokens, dtype=torch.float64).expand(attentions[0].shape).clone()
    for attention in attentions:
        mixed = attention.double() + alpha * torch.eye(tokens, dtype=torch.float64)
        for b in range(mixed.shape[0]):
            for i in range(tokens):
                total = math.fsum(mixed[b, i].tolist())
                mixed[b, i] = mixed[b, i] / total if total else torch.zeros(tokens)
        result = mixed @ result
    return result


def bilinear(values: Matrix, size: tuple[int, int]) -> Tensor:
    """Resize without aligned corners: pixel t samples the source at (t + 1/2)·n/size − 1/2, edges held."""
    rows, cols = len(values), len(values[0])

    def neighbors(pixel: int, source: int, target: int) -> tuple[int, int, float]:
        at = max((pixel + 0.5) * source / target - 0.5, 0.0)
        low = min(int(at), source - 1)
        return low, min(low + 1, source - 1), at - low

    result = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        top, bottom, down = neighbors(y, rows, size[0])
        for x in range(size[1]):
            left, right, across = neighbors(x, cols, size[1])
            upper = values[top][left] * (1 - across) + values[top][right] * across
            lower = values[bottom][left] * (1 - across) + values[bottom][right] * across
            result[y, x] = upper * (1 - down) + lower * down
    return result


def random_uncertainty(grid: tuple[int, int], batch: int = 2) -> Tensor:
    """Return random U with mostly small values."""
    patches = grid[0] * grid[1]
    return torch.rand(batch, patches, patches, dtype=torch.float64) ** 4
