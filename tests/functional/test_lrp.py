"""The rules of AttnLRP: against loops over contributions, by hand, and as derivatives with a constant divisor."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_interactions.functional.lrp import (
    elementwise_rule,
    gamma_rule,
    group_norm_rule,
    layer_norm_rule,
    rms_norm_rule,
)


def slow_gamma(relevance: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
    """Share the relevance (outputs,) of W x + b among x (inputs,), one contribution at a time."""
    shared = torch.zeros_like(x)
    for j in range(len(weight)):
        parts = [(x[i] * weight[j, i]).item() for i in range(len(x))]
        absorbed = 0.0 if bias is None else bias[j].item()
        z = sum(parts) + absorbed

        def favor(part: float, z: float = z) -> float:
            return part * (1 + gamma) if part * z > 0 else part

        total = sum(map(favor, parts)) + favor(absorbed)
        for i, part in enumerate(parts):
            shared[i] += favor(part) / total * relevance[j]
    return shared


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.25, 100.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gamma_rule_by_a_loop_over_contributions(gamma: float, with_bias: bool) -> None:
    x, weight = torch.randn(7).double(), torch.randn(5, 7).double()
    bias = torch.randn(5).double() if with_bias else None
    gradient = torch.randn(5).double()
    z = F.linear(x, weight, bias)
    passed = gamma_rule(gradient, x, weight, bias, gamma)
    torch.testing.assert_close(passed * x, slow_gamma(z * gradient, x, weight, bias, gamma))
    if not gamma:
        torch.testing.assert_close(passed, gradient @ weight)
    if not with_bias:
        torch.testing.assert_close((passed * x).sum(), (z * gradient).sum())


def test_gamma_rule_of_a_convolution_equals_that_of_its_windows() -> None:
    x, weight, bias = torch.randn(1, 4, 5, 5).double(), torch.randn(6, 2, 3, 3).double(), torch.randn(6).double()

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, stride=2, padding=1, groups=2)

    z = convolve(x, weight, bias)
    gradient = torch.randn_like(z)
    expected = torch.zeros(1, 4, 7, 7).double()
    padded = F.pad(x, (1, 1, 1, 1))
    for group in range(2):
        ins, outs = slice(2 * group, 2 * group + 2), slice(3 * group, 3 * group + 3)
        for row in range(3):
            for col in range(3):
                window = (0, ins, slice(2 * row, 2 * row + 3), slice(2 * col, 2 * col + 3))
                relevance = (z * gradient)[0, outs, row, col]
                shared = slow_gamma(relevance, padded[window].flatten(), weight[outs].flatten(1), bias[outs], 0.25)
                expected[window] += shared.view(2, 3, 3)
    passed = gamma_rule(gradient, x, weight, bias, 0.25, convolve)
    torch.testing.assert_close(passed * x, expected[..., 1:-1, 1:-1])


def test_gamma_rule_by_hand_and_of_zeros() -> None:
    # z = 2 - 1 = 1; weighted 4 - 1 = 3: parts 4/3 and -1/3. z = -2 + 1 = -1: the reverse.
    x, weight = torch.tensor([2.0, 1.0]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    for output, expected in ((0, [4 / 3, -1 / 3]), (1, [-4 / 3, 1 / 3])):
        gradient = torch.eye(2)[output]
        shared = gamma_rule(gradient, x, weight, None, 1.0) * x
        torch.testing.assert_close(shared, torch.tensor(expected) * 1.0)
    assert gamma_rule(torch.ones(2), torch.zeros(2), weight, None, 1.0).eq(0).all()
    half = gamma_rule(torch.ones(2).half(), x.half(), weight.half(), None, 1.0)
    assert half.dtype == torch.float32


def test_gamma_rule_takes_the_output_and_three_products() -> None:
    # Of |W| |x| forward, and of Wᵀ and |W|ᵀ backward. Without the output, also that of W x.
    x, weight, bias = torch.randn(4, 7), torch.randn(5, 7), torch.randn(5)
    gradient, output = torch.randn(4, 5), F.linear(x, weight, bias)
    passed = []
    for given, products in ((output, 3), (None, 4), (output.half(), 4)):
        with torch.profiler.profile() as profile:
            passed.append(gamma_rule(gradient, x, weight, bias, 0.25, output=given))
        counts = {event.key: event.count for event in profile.key_averages()}
        assert counts.get("aten::mm", 0) + counts.get("aten::addmm", 0) == products
    assert torch.equal(passed[0], passed[1])
    assert torch.equal(passed[0], passed[2])
    assert torch.equal(output, F.linear(x, weight, bias))


def test_elementwise_rule_equals_the_derivative_for_relu_but_not_gelu() -> None:
    x = torch.linspace(-3, 3, 25).double().requires_grad_()
    gradient = torch.randn(25).double()
    for function, same in ((F.relu, True), (F.gelu, False), (torch.tanh, False)):
        y = function(x)
        (derivative,) = torch.autograd.grad(y, x, gradient)
        passed = elementwise_rule(gradient, x.detach(), y.detach())
        assert torch.allclose(passed, derivative) == same
        torch.testing.assert_close(passed * x.detach(), gradient * y.detach())


@pytest.mark.parametrize("with_weight", [True, False])
def test_norm_rules_are_derivatives_with_the_divisor_detached(with_weight: bool) -> None:
    x, gradient = torch.randn(3, 2, 6).double().requires_grad_(), torch.randn(3, 2, 6).double()
    weight = torch.randn(6).double() if with_weight else None
    factor = 1.0 if weight is None else weight
    std = (x.var(-1, correction=0, keepdim=True) + 0.1).sqrt().detach()
    (expected,) = torch.autograd.grad((x - x.mean(-1, keepdim=True)) / std * factor, x, gradient)
    torch.testing.assert_close(layer_norm_rule(gradient, x.detach(), weight, 1, 0.1), expected)
    rms = (x.square().mean(-1, keepdim=True) + 0.1).sqrt().detach()
    (expected,) = torch.autograd.grad(x / rms * factor, x, gradient)
    torch.testing.assert_close(rms_norm_rule(gradient, x.detach(), weight, 1, 0.1), expected)

    x = torch.randn(3, 6, 2, 5).double().requires_grad_()
    gradient = torch.randn(3, 6, 2, 5).double()
    grouped = x.view(3, 2, 3, 2, 5)
    std = (grouped.var((2, 3, 4), correction=0, keepdim=True) + 0.1).sqrt().detach()
    normal = ((grouped - grouped.mean((2, 3, 4), keepdim=True)) / std).view_as(x)
    if weight is not None:
        normal = normal * weight[:, None, None]
    (expected,) = torch.autograd.grad(normal, x, gradient)
    torch.testing.assert_close(group_norm_rule(gradient, x.detach(), 2, weight, 0.1), expected)
