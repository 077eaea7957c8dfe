"""Attention sinks: limits solved by hand, loops, symmetries, and planted sinks."""

import statistics

import pytest
import torch
from torch import Tensor

from vit_interactions.functional import attention as attention_module
from vit_interactions.functional.attention import attention_rows
from vit_interactions.functional.attention_sinks import AttentionSinks, RunningSinks, exceeds_limit


def loop_limit(received: list[float]) -> list[bool]:
    """Quote the definition: more than max(5, median + 10 · 1.4826 · median |r − median|)."""
    median = statistics.median_low(received)
    deviation = 1.4826 * statistics.median_low([abs(value - median) for value in received])
    return [value > max(5.0, median + 10 * deviation) for value in received]


def streamed(layers: list[tuple[Tensor, Tensor, Tensor]], prefix: int, grid: tuple[int, int]) -> AttentionSinks:
    running = RunningSinks()
    for query, key, value in layers:
        batch, heads, tokens = query.shape[:3]
        for _ in running.watch(attention_rows(query, key, prefix=prefix), value, (batch, heads, tokens), prefix):
            pass
    return running.result(grid)


def random_layers(
    count: int, batch: int = 2, heads: int = 3, tokens: int = 14
) -> list[tuple[Tensor, Tensor, Tensor]]:
    draws = 3 * torch.randn(count, 3, batch, heads, tokens, 4, dtype=torch.float64)
    return [(query, key, value) for query, key, value in draws]


@pytest.mark.parametrize("elements", [1, 40, 10**6])
@pytest.mark.parametrize("prefix", [0, 2])
def test_equals_the_definition_written_as_loops(
    monkeypatch: pytest.MonkeyPatch, elements: int, prefix: int
) -> None:
    monkeypatch.setattr(attention_module, "CPU_BLOCK_ELEMENTS", elements)
    layers, tokens = random_layers(2), 14
    sinks = streamed(layers, prefix, (2, (14 - prefix) // 2))
    assert sinks.prefix == prefix
    for layer, (query, key, value) in enumerate(layers):
        attention = (query @ key.mT / 2).softmax(-1)
        for image in range(2):
            for head in range(3):
                got = sinks.received[image, layer, head]
                for token in range(tokens):
                    column = [float(attention[image, head, q, token]) for q in range(prefix, tokens)]
                    assert got[token] == pytest.approx(tokens * sum(column) / len(column), rel=1e-12)
                    norm = sum(float(part) ** 2 for part in value[image, head, token]) ** 0.5
                    assert sinks.value_norms[image, layer, head, token] == pytest.approx(norm, rel=1e-12)
                assert sinks.is_sink[image, layer, head].tolist() == loop_limit(got.tolist())
    for image in range(2):
        mean = sinks.received[image].flatten(0, 1).mean(0)
        assert sinks.tokens[image].tolist() == loop_limit(mean.tolist())
        assert sinks.patches[image].tolist() == loop_limit(mean.tolist())[prefix:]


def test_the_limit_by_hand() -> None:
    # Median 1, deviations 0 (four times), 0.2, 0.2 and 9: σ = 0, so that 5 fair shares decide.
    assert exceeds_limit(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.8, 1.2, 10.0])).tolist() == [False] * 6 + [True]
    assert not exceeds_limit(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.8, 1.2, 5.0])).any()
    # Median 1.5, deviations 1.5, 1, 0.5, 0, 0.5, 1, 8.5: σ = 1.4826, so that the limit is 16.326.
    spread = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert not exceeds_limit(torch.tensor([*spread, 16.32])).any()
    assert exceeds_limit(torch.tensor([*spread, 16.33])).tolist() == [False] * 6 + [True]


def test_uniform_attention_has_no_sinks() -> None:
    zero = torch.zeros(2, 3, 17, 4)
    sinks = streamed([(zero, zero, zero)] * 2, prefix=1, grid=(4, 4))
    torch.testing.assert_close(sinks.received, torch.ones(2, 2, 3, 17))
    assert not sinks.is_sink.any()
    assert not sinks.tokens.any()


@pytest.mark.parametrize("place", [0, 1, 9])
def test_a_planted_sink_is_found_and_receives_all_attention(place: int) -> None:
    query, key, value = torch.ones(1, 2, 17, 4), torch.zeros(1, 2, 17, 4), torch.ones(1, 2, 17, 4)
    key[:, 1, place] = 100.0
    value[:, 1, place] = 0.0
    sinks = streamed([(query, torch.zeros_like(key), value), (query, key, value)], prefix=1, grid=(4, 4))
    expected = torch.zeros(1, 2, 2, 17, dtype=torch.bool)
    expected[0, 1, 1, place] = True
    assert torch.equal(sinks.is_sink, expected)
    assert sinks.received[0, 1, 1, place] == 17
    assert sinks.value_norms[0, 1, 1, place] == 0
    # Averaged over two layers of two heads: (3 + 17) / 4 = 5, which does not exceed 5.
    assert sinks.mean_received[0, place] == 5
    assert not sinks.tokens.any()


def test_the_image_has_the_sinks_of_the_mean_over_heads() -> None:
    query, key, value = torch.ones(1, 2, 17, 4), torch.zeros(1, 2, 17, 4), torch.ones(1, 2, 17, 4)
    key[:, 1, 6] = 100.0
    sinks = streamed([(query, key, value)], prefix=1, grid=(4, 4))
    assert sinks.mean_received[0, 6] == 9  # (1 + 17) / 2
    assert sinks.patches.nonzero().tolist() == [[0, 5]]
    assert sinks.tokens.nonzero().tolist() == [[0, 6]]


def test_fewer_than_a_fifth_of_the_tokens_can_be_sinks() -> None:
    received = torch.zeros(20)
    received[:3] = 20 / 3
    assert exceeds_limit(received).sum() == 3
    received[:4] = 20 / 4
    assert not exceeds_limit(received).any()


def test_permuting_the_tokens_permutes_the_sinks() -> None:
    layers = random_layers(3, tokens=40)
    for query, key, _ in layers:
        query[..., 0], key[..., 0] = 1.0, 0.0
        key[:, :, 7, 0] = 60.0
    order = torch.randperm(40)
    sinks = streamed(layers, prefix=0, grid=(5, 8))
    permuted = [(query[:, :, order], key[:, :, order], value[:, :, order]) for query, key, value in layers]
    moved = streamed(permuted, prefix=0, grid=(5, 8))
    assert sinks.tokens[:, 7].all()
    torch.testing.assert_close(moved.received, sinks.received[..., order])
    assert torch.equal(moved.is_sink, sinks.is_sink[..., order])
    assert torch.equal(moved.tokens, sinks.tokens[..., order])
    torch.testing.assert_close(moved.value_norms, sinks.value_norms[..., order])


def test_values_that_are_not_one_vector_per_token_have_no_norms() -> None:
    running = RunningSinks()
    running.add(torch.full((1, 2, 4), 0.25).half(), torch.ones(1, 2, 3, 5))
    sinks = running.result((2, 2))
    assert sinks.value_norms.isnan().all()
    assert sinks.received.dtype == torch.float32
    assert sinks.received.eq(1.0).all()
    assert "–" in sinks._repr_html_()


def test_layers_that_differ_and_no_layers_raise() -> None:
    running = RunningSinks()
    with pytest.raises(ValueError, match="at least one layer, got none"):
        running.result((2, 2))
    running.add(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, 3), "blocks.0.attn")
    with pytest.raises(ValueError, match=r"`blocks.0.attn` .*\(1, 2, 4\), but `blocks.1.attn` has \(1, 3, 4\)"):
        running.add(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, 3), "blocks.1.attn")


def test_the_table_names_the_sinks() -> None:
    received = torch.full((12, 1, 1, 17), 0.25)
    received[0, 0, 0, [0, 7]] = torch.tensor([6.25, 7.0])
    norms = torch.ones(12, 1, 1, 17)
    norms[0, 0, 0, [0, 7]] = 0.5
    sinks = AttentionSinks(("attn",), (4, 4), received, norms, exceeds_limit(received))
    page = sinks._repr_html_()
    assert "<td>0</td><td>(1, 2)</td><td>0</td><td>7.0</td><td>0.50</td>" in page
    assert "<td>1</td><td>none</td><td>none</td><td>0.2</td><td>–</td>" in page
    assert page.count("<tr>") == 11
    assert "12 images, of which 10 are shown" in page
    unknown = AttentionSinks(("attn",), (4, 4), received, norms * torch.nan, exceeds_limit(received))
    assert "<td>0</td><td>(1, 2)</td><td>0</td><td>7.0</td><td>–</td>" in unknown._repr_html_()
    assert repr(sinks).endswith("4 x 4 patches, sink patches per image: 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...)")
