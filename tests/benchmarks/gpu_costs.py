"""The measurements of `gpu.py`: times as ratios to plain passes, peak memory, and shares of the device's peak."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import timm
import torch
from timm.task import ClassificationTask
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import vit_interactions as vi
from tests.benchmarks.cost import seconds_in_turn
from tests.benchmarks.gpu_checks import no_kernel
from vit_interactions.training.task import WindowSupervisionTask

Run = Callable[[], object]
Record = dict[str, Any]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
ROUNDS, TARGET = 7, 7
FORWARD, BOTH, STEP = "forward", "forward + backward", "training step"
U, FUSED = "U, streamed", "U, fused kernel"
OF_FORWARD = ("attention_rollout",)
OF_BOTH = ("gradient_rollout", "generic_attention", "gmar", "legrad", "attention_grad_cam", "attn_lrp")
WINFT, WINFT_STEP = "WinfT forward", "WinfT training step, cached windows"
BASELINE = {
    **dict.fromkeys((FORWARD, U, FUSED, *OF_FORWARD, WINFT), FORWARD),
    **dict.fromkeys((BOTH, *OF_BOTH), BOTH),
    **dict.fromkeys((STEP, WINFT_STEP), STEP),
}


class Peak(NamedTuple):
    """The peak of a device by its data sheet: dense TFLOP/s per type, and memory bandwidth in TB/s."""

    tflops: dict[str, float]
    bandwidth: float | None


# By a part of the device's name. Float32 without TF32, as torch multiplies matrices by default.
PEAKS = {
    "H200": Peak({"float32": 67, "bfloat16": 989}, 4.8),
    "H100 PCIe": Peak({"float32": 51, "bfloat16": 756}, 2.0),
    "H100": Peak({"float32": 67, "bfloat16": 989}, 3.35),
    "A100": Peak({"float32": 19.5, "bfloat16": 312}, 2.0),
    "L40S": Peak({"float32": 91.6, "bfloat16": 362}, 0.864),
    "L40": Peak({"float32": 90.5, "bfloat16": 181}, 0.864),
    "L4": Peak({"float32": 30.3, "bfloat16": 121}, 0.3),
}


class Setting(NamedTuple):
    """A size of images and of the batch, a type, and the shape of the model.

    Attributes:
        name: as in the tables.
        shape: name of timm's and of WinfT's model after `vit_` and `winft_`.
        size: side of the images in pixels.
        batch: number of images.
        dtype: "float32" or "bfloat16"; of weights and images, or of autocast in training.
        options: of the model.
    """

    name: str
    shape: str
    size: int
    batch: int
    dtype: str
    options: dict[str, Any]

    def model(self, kind: str, device: str) -> nn.Module:
        """Create a model on the device, in float32; random weights do not affect the cost."""
        with torch.device(device):
            model: nn.Module = timm.create_model(
                f"{kind}_{self.shape}", img_size=self.size, num_classes=10, **self.options
            )
        return model


def settings(quick: bool) -> list[Setting]:
    """List the settings, one image first."""
    shapes = [
        ("ViT-B/16 at 224", "base_patch16_224", 224, {}),
        ("ViT-B/14 at 518", "base_patch16_224", 518, {"patch_size": 14}),
        ("ViT-S/16 at 1024", "small_patch16_224", 1024, {}),
    ]
    if quick:
        tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2}
        shapes = [("tiny ViT/16 at 48", "tiny_patch16_224", 48, tiny)]
    return [
        Setting(name, shape, size, batch, dtype, options)
        for batch in ((1, 2) if quick else (1, 64))
        for dtype in DTYPES
        for name, shape, size, options in shapes
    ]


def explaining(setting: Setting, device: str) -> Iterator[tuple[str, Run]]:
    """Yield plain passes, the methods and WinfT."""
    dtype = DTYPES[setting.dtype]
    model = setting.model("vit", device).to(dtype).eval().requires_grad_(False)
    window_free = setting.model("winft", device).to(dtype).eval().requires_grad_(False)
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=device, dtype=dtype)
    explainer = vi.InteractionUncertainty(model)

    def both() -> Tensor:
        leaf = images.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, TARGET].sum(), leaf)[0]

    def method(name: str) -> Run:
        explainer = vi.EXPLAINERS[name](model)
        return lambda: explainer.patch_map(images, TARGET)

    yield FORWARD, torch.no_grad()(lambda: model(images))
    yield BOTH, both
    yield U, lambda: explainer.uncertainty(images)
    yield FUSED, lambda: explainer._pass(images, None, None, None, fused=True)
    for name in (*OF_FORWARD, *OF_BOTH):
        yield name, method(name)
    yield WINFT, torch.no_grad()(lambda: window_free(images))


def training(setting: Setting, device: str) -> Iterator[tuple[str, Run]]:
    """Yield the training step of a ViT, and of a WinfT whose windows come with the batch."""
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=device)
    classes = torch.arange(setting.batch, device=device) % 10

    def step(task: ClassificationTask, **windows: Tensor) -> Run:
        task.train()
        optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=1e-3, momentum=0.9)
        half = torch.autocast(device.partition(":")[0], torch.bfloat16)

        def run() -> None:
            with half if setting.dtype == "bfloat16" else nullcontext():
                loss = task(images, classes, **windows)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    loss = nn.CrossEntropyLoss()
    yield STEP, step(ClassificationTask(setting.model("vit", device), loss, verbose=False))
    student = setting.model("winft", device)
    patches = student.patch_embed.num_patches
    windows = torch.rand(1, patches, patches, device=device).lt(0.3).expand(setting.batch, -1, -1)
    yield WINFT_STEP, step(WindowSupervisionTask(student, loss, verbose=False), windows=windows)


class Flops(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention, without torch's hooks on modules.

    With those, `FlopCounterMode` does not run together with `torch.autograd.grad`.
    """

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


class Watched:
    """A run that notes the peak memory of its last call in bytes, beyond what was in use; on a GPU only."""

    def __init__(self, run: Run, device: str) -> None:
        """Wrap a run."""
        self.run, self.on_gpu, self.peak = run, device.startswith("cuda"), 0

    def __call__(self) -> None:
        before = 0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        self.run()
        if self.on_gpu:
            self.peak = torch.cuda.max_memory_allocated() - before


def timed(run: Run, device: str) -> float:
    """Time one call without a warm-up."""
    started = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def u_bytes(setting: Setting, way: str) -> int | None:
    """Count the least bytes that U itself moves per image; None for other runs.

    Streamed: two running sums per head, read and written in every layer but the first, which only writes, and U. Fused:
    queries and keys, copied and stacked, each of which reads and writes, read by both kernels, and U.
    """
    model: Any = setting.model("vit", "meta")
    layers, heads, width = len(model.blocks), model.blocks[0].attn.num_heads, model.embed_dim
    patches = model.patch_embed.num_patches
    if way == U:
        return 4 * patches**2 * (2 * heads * (2 * layers - 1) + 1)
    if way == FUSED:
        item = DTYPES[setting.dtype].itemsize
        return 6 * 2 * layers * (patches + 1) * width * item + 4 * patches**2
    return None


def flops(setting: Setting, way: str, run: Run) -> int:
    """Count the operations of a run per image; those of the fused kernel by its two products of queries and keys."""
    with Flops() as counter:
        run()
    extra = 0
    if way == FUSED:
        model: Any = setting.model("vit", "meta")
        patches = model.patch_embed.num_patches
        extra = 2 * len(model.blocks) * model.embed_dim * patches * (2 * patches + 1)
    return counter.total // setting.batch + extra


def attempt(run: Callable[[], Record]) -> Record:
    """Run one measurement; return its failure as "skipped" instead of raising it."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return {"skipped": reason, **({"fatal": True} if "CUDA error" in str(error) else {})}


def stop_if_fatal(record: Record) -> None:
    """Raise SystemExit if the device stopped working, which needs a new process."""
    if record.get("fatal"):
        raise SystemExit(
            f"The device stopped working ({record['skipped']}). Run the same command again to continue."
        )


def free() -> None:
    """Return the memory of a failed or finished run to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure_costs(journal: Any, device: str, quick: bool, until: float, save: Callable[[], None]) -> None:
    """Measure all settings until a time of `time.monotonic`, each in an equal share of the time that is left."""
    groups = [(setting, group) for setting in settings(quick) for group in (explaining, training)]
    for number, (setting, group) in enumerate(groups):
        share = (until - time.monotonic()) / (len(groups) - number)
        Measurement(journal, setting, device).run(group, share)
        free()
        save()


class Measurement:
    """The measurement of one setting, whose results go to the journal."""

    def __init__(self, journal: Any, setting: Setting, device: str) -> None:
        """Take the journal of `gpu.py`."""
        self.journal, self.setting, self.device = journal, setting, device

    def find(self, way: str, batch: int | None = None) -> Record:
        """Return the result of a run, here or with another batch; empty if there is none."""
        setting = self.setting if batch is None else self.setting._replace(batch=batch)
        found: Record | None = self.journal.find(**self.key(way, setting))
        return found or {}

    @staticmethod
    def key(way: str, setting: Setting) -> Record:
        """Return what identifies a result."""
        return {
            "part": "cost",
            "setting": setting.name,
            "batch": setting.batch,
            "dtype": setting.dtype,
            "way": way,
        }

    def add(self, way: str, **result: Any) -> None:
        """Write a result; raise SystemExit if the device stopped working."""
        self.journal.add(**self.key(way, self.setting), **result)
        stop_if_fatal(result)

    def run(self, group: Callable[[Setting, str], Iterator[tuple[str, Run]]], seconds: float) -> None:
        """Measure what is missing in about so many seconds."""
        ways = (
            [FORWARD, BOTH, U, FUSED, *OF_FORWARD, *OF_BOTH, WINFT] if group is explaining else [STEP, WINFT_STEP]
        )
        missing = [way for way in ways if not self.find(way)]
        if not missing or seconds <= 0:
            return
        if FUSED in missing and (reason := no_kernel(self.device, self.setting.dtype)):
            self.add(FUSED, skipped=reason)
            missing.remove(FUSED)
        runs: dict[str, Run] = {}
        built = attempt(lambda: runs.update(group(self.setting, self.device)) or {})
        if built:
            for way in missing:
                self.add(way, **built)
            return
        # The first run, a plain pass, shows by how much this setting is slower than one image.
        wanted = dict.fromkeys([ways[0], *(BASELINE[way] for way in missing), *missing])
        watched: dict[str, Watched] = {}
        spent = slower = 0.0
        for way in wanted:
            predicted = slower * self.find(way, batch=1).get("seconds", 0.0)
            if spent + predicted > seconds / 3:
                print(f"No time for {way}: {self.setting.name}, batch {self.setting.batch}, {self.setting.dtype}")
                continue
            run = Watched(runs[way], self.device)
            trial = attempt(lambda run=run: {"seconds": timed(run, self.device)})
            if "skipped" in trial:
                free()
                if way in missing:
                    self.add(way, **trial)
                continue
            spent += trial["seconds"]
            watched[way] = run
            if way == ways[0]:
                alone = self.find(way, batch=1).get("seconds")
                slower = timed(run, self.device) / alone if alone else 0.0
        watched = {way: run for way, run in watched.items() if BASELINE[way] in watched}
        rounds = max(1, min(ROUNDS, int((seconds - spent) / max(spent, 1e-9)) - 1))
        times = attempt(lambda: seconds_in_turn(watched, self.device, rounds))
        for way in (way for way in watched if way in missing):
            self.add(way, **(times if "skipped" in times else self.result(way, runs[way], watched[way], times)))

    def result(self, way: str, run: Run, watched: Watched, times: dict[str, list[float]]) -> Record:
        """Return the result of a run in the words of the journal."""
        batch = self.setting.batch
        ratios = [mine / base for mine, base in zip(times[way], times[BASELINE[way]], strict=True)]
        known = self.find(way, batch=1).get("flops")
        counted = known or attempt(lambda: {"flops": flops(self.setting, way, run)}).get("flops")
        return {
            "seconds": statistics.median(times[way]),
            "ratio": [statistics.median(ratios), min(ratios), max(ratios)],
            "rounds": len(ratios),
            "peak": watched.peak / batch,
            "flops": counted,
            "bytes": u_bytes(self.setting, way),
        }
