"""The fused kernel of U, run by Triton's interpreter: against loops in float64 and against streamed U."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vit_interactions as vi
from tests.helpers import references
from tests.helpers.explaining import assert_near, images, small_vit
from vit_interactions.functional import uncertainty, uncertainty_kernel
from vit_interactions.functional.attention import attention_probabilities
from vit_interactions.functional.uncertainty_kernel import DeferredUncertainty, why_not

Layers = list[dict[str, Any]]

# Layers, batch, heads, tokens, width, prefix, scale. The kernel's tiles have 64 rows and 64 columns, and widths are
# padded to powers of two from 16 on.
SHAPES: dict[str, tuple[int, int, int, int, int, int, float | None]] = {
    "three heads of 12, more than a tile": (3, 2, 3, 70, 12, 1, None),
    "five heads of 20, five prefix tokens": (2, 1, 5, 134, 20, 5, 0.3),
    "one row of tiles, no prefix": (4, 3, 2, 64, 16, 0, None),
    "less than a tile, width of more than 32": (2, 2, 3, 9, 33, 2, 1.0),
    "one layer": (1, 1, 2, 7, 8, 1, None),
    "one head": (3, 1, 1, 7, 8, 1, None),
}


def layers_of(
    layers: int, batch: int, heads: int, tokens: int, width: int, prefix: int, scale: float | None
) -> Layers:
    """Draw queries and keys whose attention is sharp and differs between layers and heads."""
    query, key = torch.randn(2, layers, batch, tokens, heads, width).transpose(-3, -2)
    sharp = 3.0 / (width**0.5 * (width**-0.5 if scale is None else scale))
    pairs = zip(sharp * query, key, strict=True)
    return [{"query": q, "key": k, "scale": scale, "prefix": prefix} for q, k in pairs]


def cases() -> dict[str, Layers]:
    """List what the interpreter computes."""
    torch.manual_seed(0)
    found = {name: layers_of(*shape) for name, shape in SHAPES.items()}
    masked = layers_of(3, 1, 2, 7, 8, 1, None)
    masked[1]["mask"] = torch.randn(1, 2, 7, 7)
    found["a bias in one layer"] = masked
    found["scales by layer"] = [
        {**layer, "scale": 0.1 * (number + 1)} for number, layer in enumerate(layers_of(3, 1, 2, 7, 8, 1, None))
    ]
    half = layers_of(3, 2, 3, 70, 12, 1, None)
    found["float16"] = [{**layer, "query": layer["query"].half(), "key": layer["key"].half()} for layer in half]
    found["constant over layers"] = layers_of(1, 1, 2, 7, 8, 1, None) * 3
    found["large scores"] = [
        {**layer, "query": 60 * layer["query"]} for layer in layers_of(3, 1, 2, 7, 8, 1, None)
    ]
    return found


CASES = cases()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, bool]]:
    """Return U of every case, and if it was streamed instead, from a process whose kernels are interpreted."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("kernel")
    torch.save(CASES, folder / "cases.pt")
    command = [
        sys.executable,
        "-m",
        "tests.helpers.interpreted_kernel",
        folder / "cases.pt",
        folder / "results.pt",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, tuple[Tensor, bool]] = torch.load(folder / "results.pt")
    return results


def attention_of(layers: Layers) -> list[Tensor]:
    """Compute the attention of layers in float64."""
    return [
        attention_probabilities(
            layer["query"].double(), layer["key"].double(), layer.get("mask"), scale=layer["scale"]
        )
        for layer in layers
    ]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_loops(interpreted: dict[str, tuple[Tensor, bool]], name: str) -> None:
    result, streamed = interpreted[name]
    assert streamed == (name == "a bias in one layer")
    assert result.dtype == torch.float32
    if name in ("one layer", "one head", "constant over layers"):
        assert torch.equal(result, torch.zeros_like(result))
        return
    layers, prefix = attention_of(CASES[name]), CASES[name][0]["prefix"]
    # The loops of Python take too long for more than a tile, and `uncertainty` is tested against them.
    looped = references.uncertainty if layers[0].shape[-1] < 20 else uncertainty
    expected = looped(layers, prefix)
    assert_near(result.double(), expected, 1e-5)
    assert expected.max() > 1e-3, "uniform attention would prove nothing"


def test_u_of_a_model_is_the_streamed_one(interpreted: dict[str, tuple[Tensor, bool]]) -> None:
    expected = vi.InteractionUncertainty(small_vit()).uncertainty(images())
    assert_near(interpreted["model"][0], expected)


def test_streams_on_the_cpu_without_the_interpreter() -> None:
    explainer = vi.InteractionUncertainty(small_vit())
    fused, layout = explainer._pass(images(), None, None, None, fused=True)
    assert torch.equal(fused, explainer.uncertainty(images()))
    assert layout.grid == (4, 4)


def test_layers_that_were_kept_are_streamed_before_one_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty_kernel, "INTERPRETED", True)
    monkeypatch.setattr(uncertainty_kernel, "triton", "installed")
    for change in (
        {"mask": torch.randn(1, 2, 7, 7)},
        {"mask": torch.rand(7, 7) < 0.7},
        {"is_causal": True},
        {"window": torch.rand(1, 1, 7, 7) < 0.5},
        {},
    ):
        layers = layers_of(4, 1, 2, 7, 8, 2, None)
        layers[2] |= change
        deferred, attentions = DeferredUncertainty(), []
        for layer in layers:
            query = layer["query"].clone()
            deferred.add(**{**layer, "query": query})
            query.zero_()  # what is kept is a copy
            inputs = {name: value for name, value in layer.items() if name != "prefix"}
            attentions.append(attention_probabilities(**inputs))
        assert (deferred._running is None) == (not change)
        if change:
            assert_near(deferred.result().double(), references.uncertainty(attentions, prefix=2))


def test_layers_of_different_shapes_raise_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty_kernel, "INTERPRETED", True)
    monkeypatch.setattr(uncertainty_kernel, "triton", "installed")
    deferred = DeferredUncertainty()
    deferred.add(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), name="blocks.0.attn")
    with pytest.raises(
        ValueError, match=r"`blocks.0.attn` .*\(1, 2, 4, 4\), but `blocks.1.attn` has \(1, 3, 4, 4\)"
    ):
        deferred.add(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), name="blocks.1.attn")


def test_no_layer_raises() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        DeferredUncertainty().result()


def test_reasons_against_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.zeros(1, 2, 4, 8)
    monkeypatch.setattr(uncertainty_kernel, "triton", None)
    assert why_not(query, query) == "triton is not installed"
    monkeypatch.setattr(uncertainty_kernel, "triton", "installed")
    assert why_not(query, query) == "queries are on cpu"
    monkeypatch.setattr(uncertainty_kernel, "INTERPRETED", True)
    assert why_not(query, query) is None
    assert "does not multiply bfloat16" in str(why_not(query.bfloat16(), query.bfloat16()))
    assert why_not(query.double(), query.double()) == "queries and keys are torch.float64"
    assert "keys (1, 2, 5, 8)" in str(why_not(query, torch.zeros(1, 2, 5, 8)))
    wide = torch.zeros(1, 2, 4, 129)
    assert "(1, 2, 4, 129)" in str(why_not(wide, wide))
    for options in ({"mask": torch.zeros(4, 4)}, {"is_causal": True}, {"window": torch.ones(4, 4)}):
        assert why_not(query, query, **options) == "the attention has a mask, a bias or windows"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["_log_sums", "_tile_of_uncertainty"])
def test_compiles_for_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str, kernel: str) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(uncertainty_kernel, kernel)
    kinds = {name: "*fp32" for name in ("factors", "sums", "result")} | dict.fromkeys(
        ("query", "key"), f"*{dtype}"
    )
    fixed = {"WIDTH": 64, "ROWS": uncertainty_kernel.ROWS, "COLS": uncertainty_kernel.COLS}
    source = ASTSource(
        function,
        {name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in function.arg_names},
        {(function.arg_names.index(name),): value for name, value in fixed.items()},
    )
    target = GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": uncertainty_kernel.WARPS})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 99 * 1024  # of shared memory, the least of GPUs since 2020
