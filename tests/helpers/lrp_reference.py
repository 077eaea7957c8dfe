"""A slow propagation of relevance through a timm ViT, written from the rules of AttnLRP and CP-LRP."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def slow_gamma(relevance: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
    """Share the relevance (outputs,) of W x + b among x (inputs,), one contribution at a time."""
    shared = torch.zeros_like(x)
    for j in range(len(weight)):
        parts = [(x[i] * weight[j, i]).item() for i in range(len(x))]
        absorbed = 0.0 if bias is None else bias[j].item()
        z = sum(parts) + absorbed

        def favour(part: float, z: float = z) -> float:
            return part * (1 + gamma) if part * z > 0 else part

        total = sum(map(favour, parts)) + favour(absorbed)
        for i, part in enumerate(parts):
            shared[i] += favour(part) / total * relevance[j]
    return shared


class SlowLRP:
    """Relevance through a timm ViT for one image, from relevance to relevance; `absorbed` is what biases keep."""

    def __init__(self, model: Any, image: Tensor, target: int, options: dict[str, Any]) -> None:
        """Run forward, then all the way down to `pixels`."""
        self.variant = options.get("variant", "cp")
        self.gammas = (options.get("conv_gamma", 0.25) or 0.0, options.get("linear_gamma", 0.05) or 0.0)
        self.absorbed = 0.0
        patches = F.unfold(image, 16, stride=16)[0].T
        kernel = model.patch_embed.proj.weight.flatten(1)
        embedded = torch.cat([model.cls_token[0], F.linear(patches, kernel, model.patch_embed.proj.bias)])
        tokens = embedded + model.pos_embed[0]
        below: list[Callable[[Tensor], Tensor]] = []
        for block in model.blocks:
            tokens, down = self._block(block, tokens)
            below.append(down)
        features = model.norm(tokens)
        logits = model.head(features[0])
        self.logit = logits[target]
        relevance = torch.zeros_like(features)
        relevance[:1] = self._linear(
            model.head, features[:1], logits[None] * torch.eye(len(logits)).double()[target]
        )
        relevance = self._norm(model.norm, tokens, relevance)
        for down in reversed(below):
            relevance = down(relevance)
        relevance, positions = self._split(embedded, model.pos_embed[0], relevance)
        self.absorbed += relevance[0].sum().item() + positions.sum().item()
        relevance = self._linear(model.patch_embed.proj, patches, relevance[1:], self.gammas[0])
        self.pixels = F.fold(relevance.T[None], image.shape[-2:], 16, stride=16)

    def _linear(self, layer: Any, x: Tensor, relevance: Tensor, gamma: float | None = None) -> Tensor:
        gamma = self.gammas[1] if gamma is None else gamma
        parts = torch.einsum("ni,ji->nji", x, layer.weight.flatten(1))
        parts = torch.cat([parts, layer.bias.expand(len(x), -1)[..., None]], -1)
        same_sign = parts * parts.sum(-1, keepdim=True) > 0
        parts = torch.where(same_sign, parts * (1 + gamma), parts)
        shares = (parts / parts.sum(-1, keepdim=True) * relevance[..., None]).sum(1)
        self.absorbed += shares[:, -1].sum().item()
        return shares[:, :-1]

    def _norm(self, layer: Any, x: Tensor, relevance: Tensor) -> Tensor:
        width = x.shape[-1]
        std = (x.var(-1, correction=0) + layer.eps).sqrt()
        matrix = (torch.eye(width).double() - 1 / width) * layer.weight[:, None]
        parts = torch.einsum("ni,ji->nji", x, matrix) / std[:, None, None]
        shares = parts / layer(x)[..., None] * relevance[..., None]
        self.absorbed += (relevance.sum() - shares.sum()).item()
        return shares.sum(1)

    def _split(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        return a / (a + b) * relevance, b / (a + b) * relevance

    def _block(self, block: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        attn, heads = block.attn, block.attn.num_heads
        normed = block.norm1(x)
        q, k, v = attn.qkv(normed).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        attention = scores.softmax(-1)
        z = attention @ v
        mixed = z.transpose(0, 1).flatten(1)
        projected = attn.proj(mixed)
        middle = x + projected
        normed2 = block.norm2(middle)
        hidden = block.mlp.fc1(normed2)
        active = F.gelu(hidden)
        out = block.mlp.fc2(active)

        def down(relevance: Tensor) -> Tensor:
            kept, through = self._split(middle, out, relevance)
            through = self._linear(block.mlp.fc1, normed2, self._linear(block.mlp.fc2, active, through))
            kept, through = self._split(x, projected, kept + self._norm(block.norm2, middle, through))
            through = self._linear(attn.proj, mixed, through).view(len(x), heads, -1).transpose(0, 1)
            share = attention[..., None] * v[:, None] / z[:, :, None] * through[:, :, None]  # head, i, j, width
            if self.variant == "cp":
                relevances = torch.zeros_like(q), torch.zeros_like(k), share.sum(1)
            else:
                # softmax: R_s = s (R_a - a Σ R_a), with half of the share; then half each to q and k.
                r = share.sum(-1) / 2
                r = scores * (r - attention * r.sum(-1, keepdim=True))
                pair = q[:, :, None] * k[:, None] * q.shape[-1] ** -0.5 / scores[..., None] * r[..., None] / 2
                relevances = pair.sum(2), pair.sum(1), share.sum(1) / 2
            through = torch.stack(relevances).permute(2, 0, 1, 3).flatten(1)
            return kept + self._norm(block.norm1, x, self._linear(attn.qkv, normed, through))

        return middle + out, down


def without_biases(model: nn.Module) -> nn.Module:
    """Zero everything that is added and does not come from the image."""
    added = ("bias", "cls_token", "dist_token", "reg_token", "pos_embed", "embeds.pos_embed", "beta")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(added) and "rel_pos" not in name:
                parameter.zero_()
    return model
