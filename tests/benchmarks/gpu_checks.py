"""The checks of `gpu.py`: results on a device against the CPU in float64."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

import vit_interactions as vi
from tests.benchmarks.precision import rank_agreement
from tests.helpers.explaining import ROWS, Row, images, small_vit
from tests.helpers.families import FAMILIES
from vit_interactions.figures import prepare
from vit_interactions.functional import RunningUncertainty
from vit_interactions.functional.attention import attention_rows
from vit_interactions.functional.uncertainty_kernel import DeferredUncertainty, why_not
from vit_interactions.images import read_image
from vit_interactions.images.bundled import bundled_images
from vit_interactions.training.task import WindowSupervisionTask

Check = Callable[[], dict[str, Any]]
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What a result may differ by at most, relative to its largest value, and its least rank correlation. In half precision
# the model itself rounds: the limits are about three times the largest difference of the CPU's own half precision.
LIMITS = {"float32": (1e-4, 0.999), "float16": (0.03, 0.98), "bfloat16": (0.1, 0.96)}
# Methods that count, threshold or cluster jump, so only float32 is compared, by rank correlation. Random maps are drawn
# from the bytes of the image.
JUMPING = (vi.ResponsiveFieldSize, vi.ResponsiveFieldTendency, vi.TIS)
ONLY_FLOAT32 = (*JUMPING, vi.RandomMap, vi.TransformerAttribution)
SLOW = (vi.AttentionFlow, vi.TokenAblation, vi.TIS)  # minutes on the CPU for more than a few patches


class Subject(NamedTuple):
    """A model, images, and a class per image, on the CPU in float64."""

    model: nn.Module
    images: Tensor
    target: list[int]


@cache
def subject(quick: bool, windows: bool = False) -> Subject:
    """Build the bundled ViT (or WinfT) with photos; in a quick run, a tiny random one with noise."""
    if quick:
        model = FAMILIES["winft"].build() if windows else small_vit()
        inputs = FAMILIES["winft"].images() if windows else images()
    else:
        name = "winft_mini_patch8_112" if windows else "vit_mini_patch8_112"
        model = timm.create_model(name, pretrained=True).eval()
        inputs = torch.stack([prepare(read_image(path), model).input for path in bundled_images()[:2]])
    model, inputs = model.double().requires_grad_(False), inputs.double()
    return Subject(model, inputs, model(inputs).argmax(1).tolist())


def moved(given: Subject, device: str, dtype: torch.dtype) -> Subject:
    """Copy a subject to a device and a type."""
    return Subject(copy.deepcopy(given.model).to(device, dtype), given.images.to(device, dtype), given.target)


def compared(found: Tensor, expected: Tensor, precision: str, jumps: bool = False) -> dict[str, Any]:
    """Compare a batch of results with the reference, in the words of the journal."""
    found, expected = found.detach().cpu().double().flatten(1), expected.double().flatten(1)
    scale = expected.abs().amax(1).clamp_min(1e-300)  # 0 where a map is zero everywhere
    difference = ((found - expected).abs().amax(1) / scale).max().item()
    agreement = (
        1.0 if torch.equal(found, expected) else rank_agreement(found, expected).nan_to_num(1.0).min().item()
    )
    largest, lowest = LIMITS[precision]
    near = bool(found.isfinite().all()) and agreement >= lowest and (jumps or difference <= largest)
    return {"difference": difference, "agreement": agreement, "passed": near}


@cache
def reference(name: str, quick: bool) -> Tensor:
    """Compute a method's map on the CPU in float64; that of random maps in float32, whose bytes they are drawn from."""
    row, given = next(row for row in ROWS if row.name == name), subject(quick)
    if row.method is vi.RandomMap:
        given = moved(given, "cpu", torch.float32)
    return row(given.model).patch_map(given.images, given.target)


def check_method(row: Row, device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Compare a method's map."""
    small = quick or row.method in SLOW
    mine = moved(subject(small), device, PRECISIONS[precision])
    found = row(mine.model).patch_map(mine.images, mine.target)
    return compared(found, reference(row.name, small), precision, jumps=row.method in JUMPING)


def check_window_free(device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Compare the tokens that WinfT computes."""
    given = subject(quick, windows=True)
    mine = moved(given, device, PRECISIONS[precision])
    with torch.no_grad():
        return compared(
            mine.model.forward_features(mine.images), given.model.forward_features(given.images), precision
        )


def training_gradient(given: Subject, windows: Tensor, context: Any, scale: float) -> Tensor:
    """Compute the gradient of a training step with window supervision at all parameters, (1, parameters)."""
    model = copy.deepcopy(given.model).requires_grad_(True)
    task = WindowSupervisionTask(model, nn.CrossEntropyLoss(), verbose=False)
    device = given.images.device
    with context:
        loss = task(given.images, torch.tensor(given.target, device=device), windows.to(device))["loss"]
    (scale * loss).backward()
    found = [parameter.grad.flatten() / scale for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat(found)[None]


def check_training_step(device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Compare the gradient of a training step of WinfT, under autocast for half precision."""
    given = subject(quick, windows=True)
    patches = given.model.patch_embed.num_patches
    windows = torch.rand(2, patches, patches, generator=torch.Generator().manual_seed(0)) < 0.3
    dtype = PRECISIONS[precision]
    half = precision != "float32"
    context = torch.autocast(device.partition(":")[0], dtype) if half else nullcontext()
    found = training_gradient(moved(given, device, torch.float32), windows, context, 256.0 if half else 1.0)
    return compared(found, training_gradient(given, windows, nullcontext(), 1.0), precision)


def no_kernel(device: str, precision: str) -> str | None:
    """Return why the fused kernel does not run on a device; None if it does."""
    query = torch.zeros(1, 1, 1, 1, device=device, dtype=PRECISIONS[precision])
    return why_not(query, query)


def check_kernel_on_a_model(device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Compare U of the fused kernel with streamed U on the device, for a model."""
    if reason := no_kernel(device, precision):
        return {"skipped": reason, "passed": True}
    mine = moved(subject(quick), device, PRECISIONS[precision])
    explainer = vi.InteractionUncertainty(mine.model)
    found, _ = explainer._pass(mine.images, None, None, None, fused=True)
    return compared(found, explainer.uncertainty(mine.images).cpu(), "float32")


def check_kernel_on_tensors(device: str, precision: str, quick: bool) -> dict[str, Any]:
    """Compare U of the fused kernel with streamed U on the device, for the tokens of 518 pixels."""
    if reason := no_kernel(device, precision):
        return {"skipped": reason, "passed": True}
    tokens = 70 if quick else 1370
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 2, 3, tokens, 64, generator=generator).to(device, PRECISIONS[precision])
    running, deferred = RunningUncertainty(), DeferredUncertainty()
    for layer in range(3):
        blocks = ((at, rows[..., 1:]) for at, rows in attention_rows(3 * query[layer], key[layer], prefix=1))
        running.update(blocks, (2, 3, tokens - 1, tokens - 1))
        deferred.add(3 * query[layer], key[layer], prefix=1)
    return compared(deferred.result(), running.result().cpu(), "float32")


def checks(device: str, quick: bool) -> Iterator[tuple[str, str, Check]]:
    """Yield the name, the precision and the function of each check; the kernel last, which could stop the device."""
    for precision in PRECISIONS:
        for row in ROWS:
            if precision == "float32" or row.method not in ONLY_FLOAT32:
                yield row.name, precision, partial(check_method, row, device, precision, quick)
        yield "WinfT forward", precision, partial(check_window_free, device, precision, quick)
        yield "training step", precision, partial(check_training_step, device, precision, quick)
    for precision in PRECISIONS:
        yield "fused U of a model", precision, partial(check_kernel_on_a_model, device, precision, quick)
        yield "fused U of tensors", precision, partial(check_kernel_on_tensors, device, precision, quick)
