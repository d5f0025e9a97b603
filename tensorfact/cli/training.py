"""Commands that train an adapter and use it: train, evaluate, predict."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.table import Table, counted
from ..errors import DataError, FormatError
from .console import (
    DEFAULT_RANK,
    Blocks,
    ByShape,
    CheckBase,
    Checkpoint,
    DataName,
    FolderName,
    Json,
    ModelName,
    Pretrained,
    app,
    device_of,
    plan_of,
    say,
    say_random,
    show,
)
from .progress import progress_bars
from .training_folder import CURVE, RunState, held

if TYPE_CHECKING:
    from torch import nn

    from ..adapters import Adapter
    from ..formats import Format
    from ..lab import History, Loaded, Splits
    from ..lab.training import Samples
    from ..storage.folder import AdapterInfo

Device = Annotated[str, typer.Option(help="Device: cpu, cuda, ...; default: a GPU if there is one.")]


@app.command("train")
def train_command(
    model: ModelName,
    data: DataName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter, its model card and its curve.")],
    format: Annotated[str, typer.Option("--format", help="NAME, or NAME:option=value: tt, tucker:rank=4.")] = "tt",
    rank: Annotated[
        str | None, typer.Option("--rank", help="Rank of the format.", show_default=str(DEFAULT_RANK))
    ] = None,
    scale: Annotated[str, typer.Option(help="Scale s of the update W + s dW: auto, or a number.")] = "auto",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 10,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size: images per step.")] = 64,
    dropout: Annotated[float, typer.Option(help="Dropout probability of the factors.")] = 0.0,
    blocks: Blocks = None,
    by_shape: ByShape = False,
    pretrained: Pretrained = False,
    checkpoint: Checkpoint = None,
    fractions: Annotated[
        str,
        typer.Option("--fractions", help="Fractions of train, val and test, for images that are not split yet."),
    ] = "0.7/0.15/0.15",
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of that split.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the head, the factors and the order of images.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Data-loading processes.")] = 0,
    device: Device = "",
    restart: Annotated[bool, typer.Option("--restart", help="Start again instead of resuming.")] = False,
) -> None:
    """Train an adapter on images, and write its folder.

    The images are a folder of classes, which is split by --fractions, or are split already. The parameters of the epoch
    with the highest validation accuracy are kept. Re-running the same command resumes a run that was stopped.
    """
    from ..adapters import adapt
    from ..adapters.scale import read_scale
    from ..lab import fit
    from ..lab.models import load_classifier, with_head
    from ..storage.folder import require_own_card

    chosen, shares, place = _format(format, rank), _shares(fractions), device_of(device)
    settings: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "workers": workers}
    _check_options(dropout, split_seed, **settings)
    chosen_scale = read_scale(scale)
    _refuse_inside(out, data)
    require_own_card(out)
    with held(out):
        host = load_classifier(model, pretrained=pretrained, checkpoint=checkpoint)
        splits = _opened(data, host, shares, split_seed)
        files = _files_digest(splits)
        options = [
            model,
            pretrained,
            blocks,
            by_shape,
            str(chosen),
            chosen_scale,
            dropout,
            epochs,
            lr,
            batch_size,
            seed,
        ]
        state = RunState(out, _digest([*options, splits.class_names, splits.sizes, files]), epochs)
        state.begin(restart=restart)
        say_random(host)
        host = with_head(host, splits.classes, seed).to(place)
        adapter = adapt(
            host, plan_of(host, blocks, by_shape=by_shape), chosen, scale=chosen_scale, dropout=dropout, seed=seed
        )
        sizes = ", ".join(f"{name} {size:,}" for name, size in splits.sizes.items())
        classes = counted(splits.classes, "class", "classes")
        say(f"{adapter.num_parameters:,} parameters in the factors; {classes}; images: {sizes}")
        with state.advised():
            shown = sys.stderr.isatty()
            history = fit(host, splits.train, splits.val, checkpoint=state.path, progress=shown, **settings)
        state.remove_others()
        split = {"fractions": list(shares), "split_seed": split_seed, "files": files}
        _written(adapter, splits, history, out, split)


def _check_options(dropout: float, split_seed: int, **settings: Any) -> None:
    """Check the options that need no model, before one is made."""
    from ..adapters.options import AdaptOptions
    from ..common.checks import whole_number
    from ..lab.training.schedule import Schedule, worker_count
    from ..network import Dropout

    AdaptOptions(Dropout.of(dropout), seed=settings["seed"])
    worker_count(settings.pop("workers"))
    Schedule(**settings, weight_decay=0.0, warmup_epochs=0.0)
    whole_number(split_seed, "train: split_seed", DataError, least=0)


def _opened(data: str, model: nn.Module, fractions: tuple[float, float, float], split_seed: int) -> Splits:
    """Open the images, and name the options as they are typed here."""
    from ..lab import open_task

    try:
        with progress_bars() as progress:
            return open_task(data, model, fractions=fractions, seed=split_seed, progress=progress)
    except DataError as error:  # `seed` is that of the split here
        message = str(error)
        if not message.startswith("open_task: seed"):
            raise
        raise DataError(message.replace("seed", "split_seed")) from error


def _written(adapter: Adapter, splits: Splits, history: History, out: Path, split: dict[str, object]) -> None:
    """Write the folder of an adapter and its curve, and print the results."""
    from ..formats import format_label
    from ..lab import evaluate
    from ..lab.data.images import data_config

    metrics = {"val_accuracy": history.val_accuracy or 0.0}
    if splits.sizes["test"]:
        metrics["test_accuracy"] = evaluate(adapter.model, splits.test).accuracy
    data = {"name": splits.name, "sizes": splits.sizes, **split}
    transform = data_config(adapter.model)
    adapter.save_pretrained(out, classes=splits.class_names, transform=transform, metrics=metrics, data=data)
    history.plot(out / CURVE)
    rows = [(name.replace("_", " "), f"{100 * value:.1f} %") for name, value in metrics.items()]
    label = format_label(next(iter(adapter.formats.values())))
    show(Table(("", label), (*rows, ("best epoch", f"{history.best_epoch + 1} of {len(history.epochs)}"))))
    say(f"written: {out}; to use it: tensorfact predict {shlex.quote(str(out))} IMAGE")


@app.command("evaluate")
def evaluate_command(
    folder: FolderName,
    data: DataName,
    split: Annotated[
        str, typer.Option(help="Images to evaluate on: train, val, test or all.", show_default="test, else val")
    ] = "",
    as_json: Json = False,
    checkpoint: Checkpoint = None,
    check_base: CheckBase = True,
    device: Device = "",
) -> None:
    """Measure the accuracy of an adapter on images.

    A folder of classes is split as in training, so that the test images are those that training has not seen. Images
    that are split already need no training images; their classes are matched by name with those of the adapter.
    """
    from ..lab import evaluate, load
    from ..lab.data.splits import renumbered
    from ..lab.prediction import require_classifier
    from ..lab.training.schedule import size_of
    from ..storage.folder import AdapterInfo
    from ..storage.located import adapter_folder

    place = adapter_folder(folder)
    loaded = load(place, checkpoint=checkpoint, check_base=check_base, device=device_of(device))
    require_classifier(loaded.model, "evaluate")
    splits, name = _opened_again(data, split, loaded, AdapterInfo.read(place))
    samples = _part(splits, name)
    found = evaluate(loaded.model, renumbered(samples, splits.class_names, loaded.classes))
    if as_json:
        values = {"data": splits.name, "split": name, "images": size_of(samples)}
        say(json.dumps({**values, "accuracy": found.accuracy, "loss": found.loss}, indent=2, ensure_ascii=False))
        return
    rows = (
        ("split", name),
        ("images", f"{size_of(samples):,}"),
        ("accuracy", f"{100 * found.accuracy:.1f} %"),
        ("loss", f"{found.loss:.4f}"),
    )
    show(Table(("", splits.name), rows))


@app.command("predict")
def predict_command(
    folder: FolderName,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to show for each image.")] = 5,
    as_json: Json = False,
    checkpoint: Checkpoint = None,
    check_base: CheckBase = True,
    device: Device = "",
) -> None:
    """Print the most probable classes of images."""
    from ..lab import load, predict

    files = list(_files(images))
    found = predict(
        load(folder, checkpoint=checkpoint, check_base=check_base, device=device_of(device)), files, top=top
    )
    if as_json:
        listed = [{"image": each.image, "classes": dict(zip(*each[1:], strict=True))} for each in found]
        say(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    rows = [
        (each.image, *(f"{name} {100 * share:.1f} %" for name, share in zip(*each[1:], strict=True))) for each in found
    ]
    show(Table(("image", *map(str, range(1, len(rows[0])))), tuple(rows)))


def _files_digest(splits: Splits) -> str:
    """Return a digest of the names of the image files in each split, without their folders, and of their labels."""
    parts = [getattr(getattr(splits, name), "samples", ()) for name in splits.sizes]
    return _digest([[(os.path.basename(file), label) for file, label in part] for part in parts])


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode(errors="surrogateescape")).hexdigest()[:12]


def _refuse_inside(out: Path, data: str) -> None:
    """Raise if the folder to write lies among the images, where it would be taken for a class of them next time."""
    from ..lab.data.tasks import images_path

    path = images_path(data)
    if path is not None and path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise DataError(f"--out {out} lies in the folder of the images, {path}", fix=f"--out {path.resolve()}-adapter")


def _format(text: str, rank: str | None) -> Format:
    """Return the format of --format and --rank."""
    from ..formats import get_format, parse_format

    if ":" in text and rank is not None:
        raise FormatError(
            "the rank is given twice", got=f"--format {text} --rank {rank}", fix=f"--format {text}, without --rank"
        )
    if rank is None and ":" not in text and "rank" in {field.name for field in dataclasses.fields(get_format(text))}:
        rank = str(DEFAULT_RANK)
    return parse_format(text if rank is None else f"{text}:rank={rank}")


def _shares(text: str) -> tuple[float, float, float]:
    """Return the fractions of train, val and test."""
    from ..lab.data.splits import check_fractions

    try:
        return check_fractions([float(part) for part in text.split("/")], "fractions")
    except ValueError as error:
        raise DataError(
            "--fractions",
            expected="TRAIN/VAL/TEST: three numbers with the sum 1, the first two above 0",
            got=repr(text),
            fix="0.7/0.15/0.15, or 0.8/0.2/0 for no test split",
        ) from error


def _opened_again(data: str, split: str, loaded: Loaded, info: AdapterInfo) -> tuple[Splits, str]:
    """Open data with the preprocessing and the classes of the adapter; return it and the split to evaluate on.

    Images that are not split yet are split as in training.
    """
    from ..lab import image_folder, open_task
    from ..lab.data.folders import drawn_splits
    from ..lab.data.splits import FRACTIONS
    from ..lab.data.tasks import images_path

    statistics = _statistics(loaded.model, info)
    path = images_path(data)
    if path is None:
        with progress_bars() as progress:
            splits = open_task(data, loaded.model, imagenet_statistics=statistics, progress=progress)
        return splits, _chosen(splits, split)
    drawn = drawn_splits(path)
    fractions, seed = info.data.get("fractions", FRACTIONS), info.data.get("split_seed", 0)
    again = {"fractions": tuple(fractions), "seed": seed} if drawn else {}
    splits = image_folder(
        path, loaded.model, classes=loaded.classes, imagenet_statistics=statistics, check=False, **again
    )
    chosen = _chosen(splits, split)
    if chosen in drawn and info.data.get("files") not in (None, _files_digest(splits)):
        raise DataError(
            f"{data} holds other images than in training, so that it cannot be split as it was then",
            cause="another folder, or images that were added or removed",
            fix="--split all evaluates on all of them",
        )
    return splits, chosen


def _statistics(model: nn.Module, info: AdapterInfo) -> bool:
    """Return whether an adapter was trained on images with the statistics of ImageNet instead of the model's."""
    from ..lab.data.images import data_config

    if info.transform is None:
        return False
    for statistics in (False, True):
        if _plain(data_config(model, imagenet_statistics=statistics)) == info.transform:
            return statistics
    raise DataError(
        "the adapter was trained with a preprocessing of its own",
        cause="transform= was passed to save_pretrained",
        fix="evaluate it in Python, with the transform that tensorfact.load returns",
    )


def _plain(config: object) -> object:
    return json.loads(json.dumps(config))


def _chosen(splits: Splits, name: str) -> str:
    """Return the split to evaluate on: the one that is asked for, else test, else val."""
    sizes = splits.sizes
    chosen = name or ("test" if sizes["test"] else "val")
    if chosen != "all" and not sizes.get(chosen):
        filled = [each for each, size in sizes.items() if size]
        raise DataError(
            f"{splits.name} has no images in the split {chosen!r}",
            expected=f"one of {', '.join([*filled, 'all'])}",
            fix=f"--split {filled[-1]}",
        )
    return chosen


def _part(splits: Splits, name: str) -> Samples:
    """Return the samples of a split, or of all of them."""
    from ..lab.data.splits import Joined

    if name != "all":
        return getattr(splits, name)  # type: ignore[no-any-return]
    return Joined([getattr(splits, each) for each, size in splits.sizes.items() if size])


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read", got=str(error.strerror), fix="give folders that you may read")


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield image files, and those in folders in the order of their names."""
    from ..lab.data.images import is_image
    from ..lab.data.layouts import is_hidden

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found, seen = [], set[str]()
        for folder, below, names in os.walk(path, onerror=_unreadable, followlinks=True):
            real = os.path.realpath(folder)
            below[:] = [] if real in seen else sorted(each for each in below if not is_hidden(each))
            if real not in seen:
                found += [Path(folder, each) for each in names if is_image(each) and not is_hidden(each)]
            seen.add(real)
        if not found:
            raise DataError(f"{path} holds no images", fix="pass image files, or a folder of them")
        yield from sorted(found)
