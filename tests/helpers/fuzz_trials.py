"""Trials of each command: its hostile inputs, and the allowed results."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import typer

from tests.helpers import hostile_files, hostile_images
from tests.helpers.fuzzed import Sandbox, Trial, failed_files, run, try_out
from tests.helpers.hostile_images import EVIL, SCRIPT, Hostile
from vit_interactions.cli import main as cli

FEW = ["--method", "raw_attention", "--method", "random_map"]
METRIC = ["--metric", "deletion"]
PER_RUN = 15  # hostile images
Trials = Iterator[Trial]


def on_images(sandbox: Sandbox, command: str, images: Sequence[object], out: Path) -> list[object]:
    """Return the arguments of a command that reads images."""
    options = {
        "explain": FEW[:2],
        "compare": [*FEW, *METRIC],
        "explore": [],
        "curve": ["--alpha", "0.1"],
    }[command]
    return ["--out", out, *sandbox.model, *options, "--", *images]


def on_data(sandbox: Sandbox, command: str, data: Path, out: Path, *more: object) -> list[object]:
    """Return the arguments of a command that reads a dataset."""
    if command == "windows":
        return ["--data", data, *sandbox.model, "--workers", "0", "--out", out, *more]
    if command == "evaluate":
        return [data, *sandbox.model, "--workers", "0", "--out", out, *more]
    few = ["--img-size", "32", "--epochs", "1", "--batch-size", "2", "--workers", "0", "--log-every", "1"]
    return [data, "--model", "test_vit", *few, "--out", out, *more]


def on_study(sandbox: Sandbox, folder: Path, boxes: Path, out: Path) -> list[object]:
    """Return the arguments of a command that reads a folder of images and their boxes."""
    return ["--images", folder, "--boxes", boxes, *sandbox.model, "--out", out]


def with_boxes(folder: Path) -> Path:
    """Write a table with a box for each file of a folder, beside the folder."""
    rows = [f"{path.name},8,8,24,24\n" for path in sorted(folder.iterdir())]
    table = folder.with_name(f"{folder.name}.csv")
    table.write_text("file,left,top,right,bottom\n" + "".join(rows))
    return table


STUDY = "study-fields"
IMAGE_COMMANDS = ("explain", "compare", "explore", "curve")
DATA_COMMANDS = ("windows", "evaluate", "train")
ENDS = {
    "explain": "",
    "compare": "",
    "explore": "",
    "curve": ".png",
    "windows": "",
    "evaluate": ".json",
    "train": "",
    STUDY: "",
}


def image_trials(sandbox: Sandbox, command: str, rng: np.random.Generator, count: int) -> Trials:
    """Hostile images beside a good one, a few per run; and each special one alone."""
    every = hostile_images.images(rng, count)
    for number, start in enumerate(range(0, len(every), PER_RUN)):
        chosen = every[start : start + PER_RUN]
        folder = sandbox.folder(f"{command}-images-{number}", "train", "a")
        paths = [folder / f"image{index:02}.png" for index in range(len(chosen))]
        for path, hostile in zip(paths, chosen, strict=True):
            hostile.write(path)
        out = sandbox.root / f"{command}-images-{number}{ENDS[command]}"
        if command in IMAGE_COMMANDS:
            arguments = on_images(sandbox, command, [folder, sandbox.good], out)
        elif command == STUDY:
            shutil.copytree(sandbox.data / "train" / "a", folder, dirs_exist_ok=True)
            arguments = on_study(sandbox, folder, with_boxes(folder), out)
        else:
            data = folder.parent.parent
            shutil.copytree(sandbox.data / "train" / "b", data / "train" / "b")
            shutil.copytree(data / "train", data / "val", symlinks=True, copy_function=_copy_any)
            arguments = on_data(sandbox, command, data, out)
        bad = any(hostile.readable is False for hostile in chosen)
        sure = all(hostile.readable is not None for hostile in chosen)
        codes = (0,) if command == "train" else (1,) if bad else (0,) if sure else (0, 1)
        trial = Trial(command, [hostile.name for hostile in chosen], arguments, codes, out=out)
        try_out(sandbox, trial)
        if trial.ended is not None and not trial.problems:
            trial.problems += wrong_images(command, trial.ended.text, paths, chosen, out)
        yield trial


def _copy_any(source: str, target: str) -> None:
    """Copy a file; make another of a pipe or a socket."""
    path = Path(source)
    if path.is_symlink() or path.is_file():
        shutil.copy2(source, target, follow_symlinks=False)
    else:
        os.mkfifo(target)


def wrong_images(
    command: str, text: str, paths: Sequence[Path], chosen: Sequence[Hostile], out: Path
) -> list[str]:
    """List images that a command took or left out against what is right."""
    if command == "train":
        return []
    failed = failed_files(text)
    if command == "evaluate":
        failed = json.dumps(json.loads(out.read_text()).get("unreadable_images", {}))
    elif command == "compare":
        failed = json.dumps([json.loads(p.read_text()) for p in out.glob("records/*/*.json") if _has_failed(p)])
        comparison = json.loads((out / "comparison.json").read_text())
        failed += json.dumps([photo for photo in comparison["images"] if f'"{photo["key"]}"' in failed])
        failed = " ".join(p.stem for p in out.glob("records/*/*.json") if _has_failed(p))
        paths = [path.with_suffix("") for path in paths]
    found = []
    for path, hostile in zip(paths, chosen, strict=True):
        if hostile.readable is not None and hostile.readable == (path.name in failed):
            found.append(f"{'failed' if hostile.readable else 'silent: took'} {hostile.name}")
    if command == "explain" and not (out / "good" / "maps.npz").is_file():
        found.append("a good image is not kept")
    return found


def _has_failed(unit: Path) -> bool:
    return any(not failure["method"] for failure in json.loads(unit.read_text())["failures"])


def name_trials(sandbox: Sandbox, command: str, rng: np.random.Generator, count: int) -> Trials:
    """Good images with hostile names, in folders with hostile names; beside results of before."""
    every = hostile_images.names(rng, count)
    folder = sandbox.folder(f"{command}-names")
    wanted = 0
    for name in every:
        path = os.path.join(os.fsencode(folder), name.replace(b"/", b"") + b".png")
        if not os.path.exists(path):
            Path(os.fsdecode(path)).write_bytes(sandbox.good.read_bytes())
            wanted += 1
    inside = sandbox.folder(f"{command}-inside", "<", "script><script>alert(1)<", "script>", EVIL)
    (inside / f"{SCRIPT}.png").write_bytes(sandbox.good.read_bytes())
    out = sandbox.root / f"{command}-names{ENDS[command]}"
    if not ENDS[command]:
        (out / "mine").mkdir(parents=True)
        (out / "mine" / "mine.txt").write_text("mine")
        (out / "cat").mkdir()
        (out / "cat" / "mine.txt").write_text("mine")
    if command == "compare":
        shutil.rmtree(out)
    trial = Trial(
        command, [repr(name) for name in every], on_images(sandbox, command, [folder, inside], out), (0,)
    )
    trial.out = out
    try_out(sandbox, trial)
    made = {"explain": "*/maps.npz", "explore": "*.html", "compare": "records/*/*.npz"}.get(command)
    if made is not None and len(list(out.glob(made))) != wanted + 1:
        trial.problems.append(f"{len(list(out.glob(made)))} results of {wanted + 1} images")
    yield trial


# A missing classifier is initialized randomly, with a note; windows, curves and studies of fields need no classifier.
FINE = {
    "train": [("missing key", 0)],
    **{key: [("NaN", 0), ("infinity", 0)] for key in ("windows", "curve", STUDY)},
}


def one_by_one(
    sandbox: Sandbox,
    command: str,
    kind: str,
    every: Sequence[Hostile],
    arguments: Callable[[Path, Path], list[object]],
    suffix: str,
    refused: tuple[int, ...] = (2,),
) -> Trials:
    """Run a command once per hostile file, and check that it is rejected, used, or either."""
    for number, hostile in enumerate(every):
        path = sandbox.folder(f"{command}-{kind}-{number}") / f"file{suffix}"
        hostile.write(path)
        out = sandbox.root / f"{command}-{kind}-{number}{ENDS[command]}"
        codes = {True: (0,), False: refused, None: (0, 1, 2)}[hostile.readable]
        codes += tuple(code for name, code in FINE.get(command, ()) if name == hostile.name)
        trial = Trial(command, [f"{kind}: {hostile.name}"], arguments(path, out), codes, out=out)
        yield try_out(sandbox, trial)


def table_trials(sandbox: Sandbox, rng: np.random.Generator, count: int) -> Trials:
    """Try hostile CSV files of boxes."""
    more = [*FEW[:2], "--metric", "pointing_game"]
    yield from one_by_one(
        sandbox,
        "compare",
        "boxes",
        hostile_files.tables(rng, count, "good.png"),
        lambda path, out: [sandbox.good, *sandbox.model, *more, "--boxes", path, "--target", "1", "--out", out],
        ".csv",
    )


def mask_trials(sandbox: Sandbox, rng: np.random.Generator, count: int) -> Trials:
    """Try hostile masks of an image."""
    more = [*FEW[:2], "--metric", "pointing_game"]

    def arguments(path: Path, out: Path) -> list[object]:
        if path.exists() or path.is_symlink():
            path.rename(path.with_name("good.png"))
        return [sandbox.good, *sandbox.model, *more, "--masks", path.parent, "--out", out]

    every = hostile_images.masks(rng, count)
    yield from one_by_one(sandbox, "compare", "mask", every, arguments, ".png", refused=(1, 2))


def class_map_trials(sandbox: Sandbox, rng: np.random.Generator, count: int) -> Trials:
    """Try hostile class maps of `evaluate`."""
    yield from one_by_one(
        sandbox,
        "evaluate",
        "class map",
        hostile_files.class_maps(rng, count),
        lambda path, out: on_data(sandbox, "evaluate", sandbox.data, out, "--class-map", path),
        ".txt",
    )


def checkpoint_trials(sandbox: Sandbox, command: str, rng: np.random.Generator, count: int) -> Trials:
    """Try hostile checkpoints."""

    def arguments(path: Path, out: Path) -> list[object]:
        if command == "train":
            return on_data(sandbox, command, sandbox.data, out, "--initial-checkpoint", path)
        good = [part for part in good_arguments(sandbox, command, out) if part != "--"]
        return [path if str(part).endswith("weights.safetensors") else part for part in good]

    # Weights that are not finite are read, and found by what comes of them.
    refused = (1, 2)
    every = hostile_files.checkpoints(rng, count, sandbox.state, sandbox.marker)
    yield from one_by_one(sandbox, command, "weights", every, arguments, ".pt", refused)


VALUES = (
    "",
    " ",
    "-1",
    "0",
    "nan",
    "-inf",
    "1e400",
    "1e-320",
    "9" * 30,
    EVIL,
    SCRIPT,
    "x" * 5000,
    "--",
    "/dev/null",
    "\udcff",
)
# Options whose large numbers ask for more work, which is done.
WORK = ("epochs", "steps")


def option_trials(sandbox: Sandbox, command: str, rng: np.random.Generator, count: int) -> Trials:
    """Hostile values of every option, `count` of them."""
    known: Any = typer.main.get_command(cli.app)
    parameters = [p for p in known.commands[command].params if not getattr(p, "is_flag", False)]
    pairs = [(p, value) for p in parameters for value in VALUES if not (p.name in WORK and len(value) == 30)]
    chosen = rng.permutation(len(pairs))[:count]
    for number, index in enumerate(chosen):
        parameter, value = pairs[index]
        out = sandbox.root / f"{command}-option-{number}{ENDS.get(command, '')}"
        arguments = good_arguments(sandbox, command, out)
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            arguments = [
                *arguments[: arguments.index("--")],
                f"{parameter.opts[0]}={value}",
                *arguments[arguments.index("--") :],
            ]
        else:
            arguments = [*arguments, value]
        label = f"{parameter.name} = {value!a:.20}"
        if parameter.name == "out":
            out = Path.cwd() / value.split("/")[0]
        yield try_out(sandbox, Trial(command, [label], arguments, (0, 1, 2), out=out))


def good_arguments(sandbox: Sandbox, command: str, out: Path) -> list[object]:
    """Return arguments with which a command does its work, with -- before those without names."""
    if command in ("models", "methods"):
        return ["--"]
    if command in IMAGE_COMMANDS:
        return on_images(sandbox, command, [sandbox.good], out)
    if command == STUDY:
        folder = sandbox.data / "train" / "a"
        return [*on_study(sandbox, folder, with_boxes(folder), out), "--"]
    arguments = on_data(sandbox, command, sandbox.data, out)
    return [*arguments, "--"] if command == "windows" else [*arguments[1:], "--", arguments[0]]


def edit_trials(sandbox: Sandbox, command: str, rng: np.random.Generator, count: int) -> Trials:
    """Try edits of the files of a resumed run: an error, or the same results as without the edit."""
    whole = sandbox.root / f"{command}-whole"
    arguments = [part for part in good_arguments(sandbox, command, whole) if part != "--"]
    assert run(command, *arguments).code == 0
    texts = sorted(path for path in whole.rglob("*") if path.is_file())
    wanted = results(command, whole)
    for number in range(count):
        out = sandbox.root / f"{command}-edit-{number}"
        shutil.copytree(whole, out)
        path = out / texts[rng.integers(len(texts))].relative_to(whole)
        label = edit(rng, path)
        resumed = [out if part is whole else part for part in arguments]
        resumed = ["--resume", *resumed]
        # 1: a folder or a page that is not sure to be the run's own is kept, and said.
        codes = (0, 1, 2) if command == "explain" or path.parent.name == "explorer" else (0, 2)
        trial = Trial(command, [f"{path.relative_to(out)}: {label}"], resumed, codes, out=out)
        try_out(sandbox, trial)
        if trial.ended is not None and trial.ended.code == 0 and results(command, out) != wanted:
            trial.problems.append("silent: other results")
        yield trial
        shutil.rmtree(out)


def edit(rng: np.random.Generator, path: Path) -> str:
    """Edit a file at random; return what was done."""
    draw = rng.integers(8)
    content = path.read_bytes()
    if draw == 0:
        path.unlink()
        return "removed"
    if draw == 1:
        path.write_bytes(b"")
        return "emptied"
    if draw == 2:
        path.unlink()
        path.mkdir()
        return "a folder"
    if path.suffix == ".json":
        label, edited = hostile_files.edited_json(rng, content)
        path.write_bytes(edited)
        return label
    hostile = hostile_images.damaged(rng, content)
    hostile.write(path)
    return hostile.name


def results(command: str, out: Path) -> dict[str, object]:
    """Return the results that an edit must not change."""
    if command == "explain":
        return {str(p.relative_to(out)): _arrays(p) for p in sorted(out.glob("*/maps.npz"))}
    if command == "compare":
        from vit_interactions.compare.comparison import Comparison

        table = Comparison.open(out).table()
        table = table[table["metric"] == "deletion"]  # others are times
        return {"table": table.to_csv(), "unfinished": Comparison.open(out).unfinished}
    if command == "windows":
        # JSON may be written in another encoding without saying anything else.
        return {
            p.name: json.loads(p.read_bytes()) if p.suffix == ".json" else p.read_bytes() for p in out.iterdir()
        }
    if command == STUDY:
        return {name: (out / name).read_bytes() for name in ("results.csv", "per_image.csv")}
    return {"weights": (out / "last" / "model.safetensors").read_bytes()}


def _arrays(path: Path) -> dict[str, bytes]:
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files}
