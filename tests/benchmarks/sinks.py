"""List the attention sinks of a trained model on a folder of images, and what finding them costs.

    python tests/benchmarks/sinks.py MODEL CHECKPOINT FOLDER
    python tests/benchmarks/sinks.py MODEL CHECKPOINT IMAGE --figure FILE.png

For every image: the sink patches, the attention that they receive (1 is the fair share), the norm of their values in
the head where they receive most, relative to the median token of that head, and the rank of their detail among all
patches: the standard deviation of the pixels, 0 for the plainest patch, 1 for the busiest. Then the pairs inside the
windows with and without sinks, and CPU times of alternating runs in one process. With `--figure`, only a figure of one
image: its maps with and without the sinks.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import vit_interactions as vi
from vit_interactions.attention import AttentionCall, TokenLayout
from vit_interactions.attention.observe import observe
from vit_interactions.explain import method_name
from vit_interactions.figures import draw_image, draw_map, mark_sinks, prepare
from vit_interactions.figures.shown import rendered
from vit_interactions.functional import RunningUncertainty
from vit_interactions.images import read_image
from vit_interactions.loading.models import load_model

ALPHAS = (0.025, 0.10)


def detail_ranks(image: Tensor, layout: vi.TokenLayout) -> Tensor:
    """Rank the patches of an image (channels, height, width) by the standard deviation of their pixels, in [0, 1]."""
    height, width = layout.extent[0] // layout.rows, layout.extent[1] // layout.cols
    cells = (
        image[None, :, : layout.extent[0], : layout.extent[1]].unfold(2, height, height).unfold(3, width, width)
    )
    spread = cells.flatten(4).std(-1).mean((0, 1)).flatten()
    return spread.argsort().argsort() / (len(spread) - 1)


def plain_uncertainty(model: nn.Module, images: Tensor) -> Tensor:
    """Compute U alone, without looking for sinks."""
    running = RunningUncertainty()

    def take_in(call: AttentionCall, layout: TokenLayout) -> None:
        shape = (*call.query.shape[:2], layout.patches, layout.patches)
        running.update(call.blocks(layout.prefix), shape, call.name)

    observe(model, images, None, take_in)
    return running.result()


def draw_figure(model: nn.Module, path: Path, out: Path) -> None:
    """Draw U and attention rollout of an image with and without its sinks, in 256 colors."""
    prepared = prepare(read_image(path), model)
    inputs = prepared.input[None]
    layout = vi.token_layout(model, tuple(inputs.shape[-2:]))
    sinks = vi.attention_sinks(model, inputs).patches[0]
    figure = Figure(figsize=(10.2, 4.7))
    figure.subplots_adjust(0.005, 0.05, 0.9, 0.94, 0.22, 0.28)
    for axes, exclude in zip(figure.subplots(2, 3), (False, True), strict=True):
        draw_image(axes[0], prepared, layout)
        axes[0].set_title("image", fontsize=9)
        for panel, kind in zip(axes[1:], (vi.InteractionUncertainty, vi.AttentionRollout), strict=True):
            values = kind(model, exclude_sinks=exclude).patch_map(inputs)[0]
            name = method_name(kind).replace("_", " ")
            print(f"{name}, exclude_sinks={exclude}: at most {float(values.max()):.3g}")
            draw_map(panel, prepared, values, layout)
            mark_sinks(panel, prepared, layout, sinks)
            panel.set_title(name + ", exclude_sinks=True" * exclude, fontsize=9)
    rendered(figure, 100).quantize(method=Image.Quantize.MAXCOVERAGE).save(out, optimize=True)


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="of images; with --figure, one image")
    parser.add_argument("--figure", type=Path, help="only draw this figure")
    parser.add_argument("--every", type=int, default=20, help="use every n-th image of the folder")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = load_model(options.model, options.checkpoint)
    if options.figure:
        draw_figure(model, options.folder, options.figure)
        return
    files = sorted(options.folder.iterdir())[:: options.every]
    inputs = [prepare(read_image(file), model).input for file in files]
    layout = vi.token_layout(model, tuple(inputs[0].shape[-2:]))
    print(f"{layout}\n\n| image | sink patches (row, col) | attention received | value norm | detail |")
    print("| --- | --- | --- | --- | --- |")
    operations, ranks, norms = [], [], []
    for file, image in zip(files, inputs, strict=True):
        found = vi.InteractionUncertainty(model).interactions(image[None])
        sinks, places = found.sinks, found.sinks.patches[0].nonzero().flatten()
        relative = sinks.value_norms / sinks.value_norms.median(-1, keepdim=True).values
        received = sinks.received[0, :, :, sinks.prefix :].flatten(0, 1)[:, places]
        own = (
            relative[0, :, :, sinks.prefix :].flatten(0, 1)[:, places].gather(0, received.argmax(0, keepdim=True))
        )
        norms += own.flatten().tolist()
        ranks += detail_ranks(image, layout)[places].tolist()
        cells = [
            " ".join(f"({index // layout.cols},{index % layout.cols})" for index in places.tolist()),
            " ".join(f"{value:.1f}" for value in sinks.mean_received[0, sinks.prefix :][places].tolist()),
            " ".join(f"{value:.2f}" for value in norms[len(norms) - len(places) :]),
            " ".join(f"{value:.2f}" for value in ranks[len(ranks) - len(places) :]),
        ]
        print(f"| {file.stem.partition('_')[2]} | {' | '.join(cells)} |")
        for exclude in (None, sinks.patches):
            fields = [
                vi.responsive_field(found.uncertainty, layout.grid, alpha, 0.0, exclude=exclude)
                for alpha in ALPHAS
            ]
            operations.append([int(field.operations) / layout.patches**2 for field in fields])
    print(f"\nmedian value norm {statistics.median(norms):.2f}, median detail {statistics.median(ranks):.2f}\n")
    for name, rows in (("all patches", operations[::2]), ("without sinks", operations[1::2])):
        means = torch.tensor(rows).mean(0)
        print(
            f"pairs inside the windows, {name}:",
            *(f"α {a:g}: {m:.1%}" for a, m in zip(ALPHAS, means, strict=True)),
        )
    explainer = vi.InteractionUncertainty(model, exclude_sinks=True)
    runs: dict[str, Callable[[Tensor], object]] = {
        "U alone": lambda images: plain_uncertainty(model, images),
        "U with exclude_sinks": explainer.uncertainty,
        "attention_sinks": lambda images: vi.attention_sinks(model, images),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run(inputs[0][None])
            if number:  # the first round is a warm-up
                times[name].append(time.process_time() - start)
    for name in runs:
        ratios = [a / b for a, b in zip(times[name], times["U alone"], strict=True)]
        print(
            f"{name}: {statistics.median(times[name]):.3f} s of CPU time, {statistics.median(ratios):.2f}x U alone"
        )


if __name__ == "__main__":
    main()
