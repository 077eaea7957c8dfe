"""Reorder the heads or move the patches of models and images, for tests of symmetries."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Parameters of an attention: the axis along which its heads follow one another, and how often they do.
HEADS = {
    **dict.fromkeys(("qkv.weight", "qkv.bias", "in_proj_weight", "in_proj_bias"), (0, 3)),
    **dict.fromkeys(("kv.weight", "kv.bias"), (0, 2)),
    **{f"{part}.{kind}": (0, 1) for part in ("q", "q_proj", "k_proj", "v_proj") for kind in ("weight", "bias")},
    **dict.fromkeys(("q_bias", "k_bias", "v_bias", "rel_pos.mlp.fc2.weight", "rel_pos.mlp.fc2.bias"), (0, 1)),
    **dict.fromkeys(("proj.weight", "o_proj.weight", "out_proj.weight", "relative_position_bias_table"), (1, 1)),
}

# Position embeddings, whose last rows are the patches', and the rows and columns of position biases.
EMBEDDINGS = ("pos_embed", "pos_embedding", "position_embeddings")
PAIRS = "relative_position_index"


def attentions(model: nn.Module) -> dict[nn.Module, int]:
    """Return the number of heads of each attention of a model, including a pooling head's."""
    heads = {m: getattr(m, "num_heads", None) or getattr(m, "num_attention_heads", 0) for m in model.modules()}
    return {m: count for m, count in heads.items() if count and HEADS.keys() & dict(m.named_parameters()).keys()}


@torch.no_grad()
def reordered_heads(model: nn.Module, orders: Sequence[Tensor]) -> nn.Module:
    """Copy a model with its heads in the given orders, which leaves its outputs unchanged."""
    model = copy.deepcopy(model)
    for (attention, heads), order in zip(attentions(model).items(), orders, strict=True):
        for name, tensor in (*attention.named_parameters(), *attention.named_buffers()):
            if name in HEADS:
                axis, times = HEADS[name]
                apart = tensor.unflatten(axis, (times, heads, -1))
                tensor.copy_(apart.index_select(axis + 1, order).flatten(axis, axis + 2))
    return model


@torch.no_grad()
def placed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Redraw a model's position embeddings, so that the place of a patch matters much; return the model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(EMBEDDINGS):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def moved_patches(model: nn.Module, order: Tensor) -> nn.Module:
    """Copy a model that tells patches' places by a table, patch p taking the place of patch order[p].

    The copy's output for images moved the same way equals the model's output for the original images.
    """
    model, patches = copy.deepcopy(model), len(order)
    found = False
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(EMBEDDINGS):
            tensor[..., -patches:, :] = tensor[..., -patches:, :][..., order, :].clone()
        elif name.endswith(PAIRS):
            pairs = tensor.view(round(tensor.numel() ** 0.5), -1)
            tokens = torch.arange(len(pairs))
            tokens[-patches:] = tokens[-patches:][order]
            pairs.copy_(pairs[tokens][:, tokens])
        else:
            continue
        found = True
    assert found, "no position is told by a table"
    return model


def moved_images(images: Tensor, grid: tuple[int, int], order: Tensor, new_grid: tuple[int, int]) -> Tensor:
    """Cut images into their patches, and put patch order[p] where patch p of the new grid is."""
    height, width = images.shape[-2] // grid[0], images.shape[-1] // grid[1]
    patches = images.unfold(2, height, height).unfold(3, width, width).flatten(2, 3)[:, :, order]
    rows = patches.unflatten(2, new_grid)  # batch, channels, rows, cols, height, width
    return rows.transpose(3, 4).flatten(4, 5).flatten(2, 3)
