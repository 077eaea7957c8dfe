"""Measure whether windows help: the paper's protocol at a small size, from one ViT and on one training budget.

    python tests/benchmarks/study.py --data ../shared/data/imagenette160 \
        --weights ../shared/data/weights/vit_tiny_patch16_224.tiny_imagenet_200.safetensors --out study

Trains plain ViT, AWD-ViT, AWD-ViT with DIP and WinfT as `vit-interactions train` does. All start from the trained
ViT, which is also the teacher. Each finished run adds a row to runs.csv; an interrupted study resumes. Prints a
Markdown table of means and standard deviations over the seeds, and draws them as study.png. On a GPU: `--img-size 224
--per-class 0 --epochs 15 --batch-size 128 --device cuda --workers 12 --alpha-low 0.028`.
"""

import argparse
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from vit_interactions.training.settings import TrainingSettings
from vit_interactions.training.train import train

TEACHER = "vit_tiny_patch16_224"
ALPHAS, BETAS = (0.05, 0.10, 0.20), (0.1, 0.2, 0.5)
PAPER_ALPHA = 0.10
COVERAGE = 0.9
# Windows that neither a distant patch nor a sink opens. At α 0.2, those of coverage 0.9 are about as large as the
# paper's at 0.1.
OTHER_WINDOWS: dict[str, dict[str, Any]] = {
    f"α {PAPER_ALPHA:g}, coverage {COVERAGE:g}": {"alpha": PAPER_ALPHA, "window_coverage": COVERAGE},
    f"α {2 * PAPER_ALPHA:g}, coverage {COVERAGE:g}": {"alpha": 2 * PAPER_ALPHA, "window_coverage": COVERAGE},
    f"α {PAPER_ALPHA:g}, without sinks": {"alpha": PAPER_ALPHA, "exclude_sinks": True},
}
MARKERS = {"ViT": "s", "AWD-ViT": "o", "AWD-ViT DIP": "^", "WinfT": "D"}


def models(alpha_low: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the training options of every model of the study."""
    teacher = {"teacher": TEACHER}
    yield "ViT", {"model": TEACHER}
    awd = {"model": "awd_vit_tiny_patch16_224", **teacher}
    for alpha in sorted({alpha_low, *ALPHAS}):
        yield f"AWD-ViT, α {alpha:g}", {**awd, "alpha": alpha, "beta": 0.0}
    for name, changes in OTHER_WINDOWS.items():
        yield f"AWD-ViT, {name}", {**awd, "beta": 0.0, **changes}
    for beta in BETAS:
        yield f"AWD-ViT, α {PAPER_ALPHA:g}, DIP β {beta:g}", {**awd, "alpha": PAPER_ALPHA, "beta": beta}
    if alpha_low != PAPER_ALPHA:
        yield f"AWD-ViT, α {alpha_low:g}, DIP β 0.2", {**awd, "alpha": alpha_low, "beta": 0.2}
    for fill in ("zero", "-inf"):
        winft = {"model": "winft_tiny_patch16_224", "window_fill": fill}
        yield f"WinfT {fill}, λ2 0", winft
        for alpha in sorted({alpha_low, PAPER_ALPHA}):
            online = {**winft, **teacher, "window_targets": "online", "alpha": alpha}
            yield f"WinfT {fill}, λ2 1, α {alpha:g}", online
        if fill == "zero":
            for name, changes in OTHER_WINDOWS.items():
                yield f"WinfT {fill}, λ2 1, {name}", {**online, **changes}


def subset(data: Path, folder: Path, train_images: int, val_images: int) -> Path:
    """Link to the first images of each class by file name, or to all of them for 0."""
    for split, count in (("train", train_images), ("val", val_images)):
        for kind in sorted((data / split).iterdir()):
            (folder / split / kind.name).mkdir(parents=True, exist_ok=True)
            for image in sorted(kind.iterdir())[: count or None]:
                link = folder / split / kind.name / image.name
                if not link.is_symlink():
                    link.symlink_to(image.resolve())
    return folder


def run(name: str, options: dict[str, Any], seed: int, args: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Train one model and return its row of the table."""
    checkpoint = {"teacher_checkpoint": args.weights} if "teacher" in options else {}
    settings = TrainingSettings(
        data=data,
        initial_checkpoint=args.weights,
        img_size=args.img_size,
        epochs=args.epochs,
        eval_every=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        warmup_steps=args.warmup_steps,
        scale=0.35,
        amp=args.amp,
        device=args.device,
        workers=args.workers,
        seed=seed,
        **options,
        **checkpoint,
    )
    start = time.perf_counter()
    folder = args.out / "runs" / f"{name.replace(', ', '_').replace(' ', '_')}_seed_{seed}"
    result = train(settings, folder, resume=True).evaluation
    if result is None or result.operations is None or result.pairs is None:
        raise RuntimeError(f"{folder} contains a run that has already been evaluated. Remove it.")
    return {
        "model": name,
        "seed": seed,
        "top1": round(result.top1, 3),
        "loss": round(result.loss, 4),
        "E_O": round(result.operations, 1),
        "pairs": result.pairs,
        "images": result.images,
        "seconds": round(time.perf_counter() - start),
        "folder": folder.name,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Format means and standard deviations over the seeds as a Markdown table."""
    lines = ["| model | seeds | top-1 (%) | E_O | of all pairs |", "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        top1 = [float(row["top1"]) for row in own]
        operations = mean(float(row["E_O"]) for row in own)
        spread = f" ± {stdev(top1):.2f}" if len(top1) > 1 else ""
        share = operations / float(own[0]["pairs"])
        lines.append(f"| {name} | {len(own)} | {mean(top1):.2f}{spread} | {operations:,.0f} | {share:.0%} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw mean and standard deviation of top-1 against the fraction of pairs inside the windows, per model."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["model"] for row in rows))
    for name in names:
        own = [row for row in rows if row["model"] == name]
        top1 = [float(row["top1"]) for row in own]
        share = mean(100 * float(row["E_O"]) / float(row["pairs"]) for row in own)
        kind = MARKERS[name.split(",")[0].split()[0] + (" DIP" if "DIP" in name else "")]
        spread = stdev(top1) if len(top1) > 1 else 0.0
        axes.errorbar(share, mean(top1), spread, fmt=kind, capsize=3, label=name, markersize=8)
    axes.set(xlabel="pairs inside the windows ($E_O$), % of all", ylabel="top-1, %", xlim=(0, 105))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the existing rows, if any."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row to the file."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train and val")
    parser.add_argument(
        "--weights", type=Path, required=True, help="checkpoint of the trained vit_tiny_patch16_224"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--img-size", type=int, default=112)
    parser.add_argument("--per-class", type=int, default=100, help="training images per class; 0: all")
    parser.add_argument("--val-per-class", type=int, default=0, help="validation images per class; 0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--warmup-steps", type=int, default=10)
    parser.add_argument(
        "--alpha-low", type=float, default=0.10, help="alpha at which windows contain about 23%% of all pairs"
    )
    parser.add_argument("--amp", default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of models")
    return parser.parse_args()


def main() -> None:
    """Train the missing models, and print the table."""
    args = parse()
    data = subset(args.data, args.out / "data", args.per_class, args.val_per_class)
    results = args.out / "runs.csv"
    for seed in args.seeds:
        for name, options in models(args.alpha_low):
            done = {(row["model"], int(row["seed"])) for row in read(results)}
            if (name, seed) in done or (args.only and name not in args.only):
                continue
            row = run(name, options, seed, args, data)
            append(results, row)
            print(row, flush=True)
    print(table(read(results)))
    draw(read(results), args.out / "study.png")


if __name__ == "__main__":
    main()
