"""Transformer attribution of one image, written from the published rules, for tiny timm ViTs in float64."""

from typing import Any

import torch
from torch import Tensor


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Compute a / b with x / 0 = 0."""
    return torch.where(b == 0, torch.zeros_like(b), a / b)


def slow_linear(relevance: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Share relevance (tokens, outputs) in proportion to the positive contributions, each written out."""
    positive = (x[:, None, :] * weight).clamp(min=0)
    return (ratio(positive, positive.sum(-1, keepdim=True)) * relevance[..., None]).sum(1)


def slow_sum(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Split relevance between a and b, rescaled over the whole of this one image."""
    r_a, r_b = ratio(a * relevance, a + b), ratio(b * relevance, a + b)
    s_a, s_b = r_a.sum(), r_b.sum()
    whole = s_a.abs() + s_b.abs()
    return (
        r_a * ratio(s_a.abs() * relevance.sum(), whole * s_a),
        r_b * ratio(s_b.abs() * relevance.sum(), whole * s_b),
    )


def slow_attribution(model: Any, image: Tensor, target: int, start_layer: int = 0) -> tuple[Tensor, list[Tensor]]:
    """Compute the map (patches,) of one image (1, 3, H, W), and the relevance of each layer's attention."""
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))[0].detach()
    seen: list[dict[str, Tensor]] = []
    for block in model.blocks:
        attn = block.attn
        s: dict[str, Tensor] = {"in": tokens, "normed": block.norm1(tokens)}
        q, k, v = attn.qkv(s["normed"]).view(len(tokens), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
        s["q"], s["k"], s["v"] = attn.q_norm(q), attn.k_norm(k), v
        s["A"] = (s["q"] @ s["k"].mT * q.shape[-1] ** -0.5).softmax(-1)
        s["z"] = s["A"] @ v
        s["mixed"] = s["z"].transpose(0, 1).flatten(1)
        s["projected"] = block.ls1(attn.proj(s["mixed"]))
        s["middle"] = tokens + s["projected"]
        s["normed2"] = block.norm2(s["middle"])
        s["active"] = block.mlp.act(block.mlp.fc1(s["normed2"]))
        s["out"] = block.ls2(block.mlp.fc2(s["active"]))
        tokens = s["middle"] + s["out"]
        seen.append(s)
    features = model.norm(tokens)
    prefix = model.num_prefix_tokens
    readout = torch.zeros(len(tokens)).double()
    if getattr(model, "head_dist", None) is not None:
        logits = (model.head(features[0]) + model.head_dist(features[1])) / 2
        pooled, heads = features[:2], [(model.head, 0.5, 0), (model.head_dist, 0.5, 1)]
        readout[:2] = 0.5
    elif model.global_pool == "avg":
        pooled = model.fc_norm(features[prefix:].mean(0))[None]
        logits, heads = model.head(pooled[0]), [(model.head, 1.0, 0)]
        readout[prefix:] = 1 / len(features[prefix:])
    else:
        pooled, heads = features[:1], [(model.head, 1.0, 0)]
        logits = model.head(features[0])
        readout[0] = 1.0
    gradients = torch.autograd.grad(logits[target], [s["A"] for s in seen])

    relevance = torch.zeros_like(features)
    one_hot = torch.eye(len(logits)).double()[None, target]
    for head, share, row in heads:
        of_pooled = slow_linear(one_hot * share, pooled[row][None], head.weight)
        if model.global_pool == "avg":
            of_mean = ratio(of_pooled, features[prefix:].sum(0, keepdim=True))
            relevance[prefix:] = features[prefix:] * of_mean
        else:
            relevance[row] = of_pooled[0]

    relevances: list[Tensor] = []
    state = readout
    for layer in reversed(range(len(seen))):
        s, block = seen[layer], model.blocks[layer]
        kept, through = slow_sum(relevance, s["middle"], s["out"])
        through = slow_linear(through, s["active"], block.mlp.fc2.weight)
        relevance = kept + slow_linear(through, s["normed2"], block.mlp.fc1.weight)
        kept, through = slow_sum(relevance, s["in"], s["projected"])
        through = slow_linear(through, s["mixed"], block.attn.proj.weight)
        t = ratio(through.view(len(tokens), block.attn.num_heads, -1).transpose(0, 1), s["z"])
        of_attention = s["A"] * (t @ s["v"].mT) / 2
        of_value = s["v"] * (s["A"].mT @ t) / 2
        t = ratio(of_attention, s["q"] @ s["k"].mT)
        of_query, of_key = s["q"] * (t @ s["k"]) / 2, s["k"] * (t.mT @ s["q"]) / 2
        of_qkv = torch.stack([of_query, of_key, of_value]).permute(2, 0, 1, 3).flatten(1)
        relevance = kept + slow_linear(of_qkv, s["normed"], block.attn.qkv.weight)
        relevances.insert(0, of_attention.detach())
        if layer >= start_layer:
            state = state + state @ (gradients[layer] * of_attention).clamp(min=0).mean(0)
    return (state - readout)[prefix:].detach(), relevances
