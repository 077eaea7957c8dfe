"""The windows that a forward pass records."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import vit_interactions as vi
from tests.helpers.window_free import every_fill, images, small
from vit_interactions.functional.window_free import (
    window_free_mask,
)


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 1),
        ({"reg_tokens": 3}, 4),
        ({"class_token": False, "global_pool": "avg"}, 0),
        ({"class_token": False, "reg_tokens": 2, "global_pool": "map"}, 2),
        ({"no_embed_class": True, "reg_tokens": 1, "qk_norm": True, "init_values": 0.1}, 2),
    ],
)
@every_fill
def test_the_windows_equal_those_of_queries_and_keys(options: dict[str, Any], prefix: int, fill: str) -> None:
    model = small(**options, window_fill=fill)
    with torch.no_grad(), vi.record_windows(model) as record, vi.record_attention(model) as attention:
        model(images())
    assert len(attention.calls) == len(record.masks) == 2
    for call, logits, mask in zip(attention.calls, record.logits, record.masks, strict=True):
        expected = torch.einsum("bhid,bhjd->bij", call.query[:, :, prefix:], call.key[:, :, prefix:]) / 2
        torch.testing.assert_close(logits, expected)
        weights = expected.double().sigmoid()
        assert torch.equal(mask, weights > weights.mean(-1, keepdim=True))
        assert 0.1 < mask.float().mean() < 0.9


def test_the_record_by_hand() -> None:
    model = small()
    with torch.no_grad(), vi.record_windows(model) as record:
        model(images(3))
    assert [logits.shape for logits in record.logits] == [(3, 16, 16)] * 2
    assert all(
        torch.equal(window_free_mask(logits), mask)
        for logits, mask in zip(record.logits, record.masks, strict=True)
    )
    for image, operations in enumerate(record.operations.tolist()):
        assert operations == sum(int(mask[image].sum()) for mask in record.masks) / 2
    # The same for each image alone.
    with torch.no_grad(), vi.record_windows(model) as alone:
        model(images(3)[2:])
    assert torch.equal(alone.masks[1][0], record.masks[1][2])


def test_windows_are_stored_only_while_recording() -> None:
    model = small()
    layers = [block.attn for block in model.blocks]

    def kept() -> bool:
        return any(
            layer.recording or layer.window_logits is not None or layer.window_mask is not None for layer in layers
        )

    model(images())
    assert not kept()
    with vi.record_windows(model) as record:
        model(images())
        assert kept()
    assert not kept()
    assert len(record.logits) == 2
    model.blocks[1].register_forward_hook(lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError), vi.record_windows(model):
        model(images())
    assert not kept()
    model = small()
    assert list(model.state_dict()) == list(small("vit_tiny_patch16_224").state_dict())
    copy.deepcopy(model)
    torch.save(model, io.BytesIO())


def test_the_record_has_the_layers_of_the_last_forward_pass() -> None:
    model = small()
    with vi.record_windows(model) as record:
        model(images(3))
        model(images(2))
        assert record.logits[0].shape[0] == 2
        model.forward_intermediates(images(), indices=[0], stop_early=True)
    assert len(record.masks) == 2
    with vi.record_windows(model) as record:
        model.forward_intermediates(images(), indices=[0], stop_early=True, intermediates_only=True)
    assert len(record.masks) == 1


def test_invalid_records_raise() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"WindowFreeAttention layers, got VisionTransformer without any"):
        vi.record_windows(small("vit_tiny_patch16_224")).__enter__()
    with vi.record_windows(model) as record:
        with pytest.raises(RuntimeError, match="already being recorded"):
            vi.record_windows(model).__enter__()
        with pytest.raises(RuntimeError, match="No forward pass has been recorded"):
            _ = record.masks
    with vi.record_windows(model):
        model(images())
        with pytest.raises(RuntimeError, match="No forward pass has been recorded"):
            _ = record.operations
    parallel = nn.DataParallel(model)
    parallel.device_ids = [0, 1]
    with pytest.raises(ValueError, match="Use DistributedDataParallel"):
        vi.record_windows(parallel).__enter__()
