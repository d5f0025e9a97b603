"""Train, evaluate and predict: the commands of the page on photographs, and folders of images as people have them."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tensorfact import adapt
from tensorfact.lab import load
from tensorfact.lab.data.images import open_rgb
from tensorfact.lab.data.splits import FRACTIONS, stratify
from tensorfact.lab.models import load_model
from tests.cli.calls import Run

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "photographs.md"
MODEL = "vit_tiny_patch16_224(img_size=32,patch_size=16,depth=1,embed_dim=24,num_heads=2)"
CLASSES = ("circles", "squares", "stripes")


def draw(folder: Path, count: int = 6) -> Path:
    """Write small images of three classes."""
    random = np.random.default_rng(0)
    for at, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 90, (20, 24, 3), dtype=np.uint8)
            pixels[..., at] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return draw(tmp_path / "photos")


def trained(run: Run, data: str | Path, out: str, *words: str) -> dict[str, object]:
    """Train for two epochs, and return what the folder says."""
    result = run("train", MODEL, data, "--out", out, "--rank", "2", "--epochs", "2", *words)
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(Path(out, "adapter.json").read_text())
    return found


def test_the_commands_of_the_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], {})  # draws the images
    commands = re.findall(r"^tensorfact (.*)$", text, re.MULTILINE)
    readme = (PAGE.parents[2] / "README.md").read_text()
    assert re.findall(r"^\$ tensorfact (.*)$", readme, re.MULTILINE) == commands
    assert [shlex.split(words)[0] for words in commands] == ["plan", "train", "evaluate", "predict", "merge"]
    printed = {}
    for words in commands:
        result = run(*shlex.split(words))
        assert result.returncode == 0, result.stderr
        printed[words.split()[0]] = result.stdout
    assert "4,864" in printed["plan"]
    assert "are random (seed 0); --pretrained" in printed["train"]
    assert "images: train 42, val 9, test 9" in printed["train"]
    written = {"adapter.safetensors", "adapter.json", "README.md", "network.svg", "curve.png"}
    assert {path.name for path in Path("shapes").iterdir() if not path.name.startswith(("training-", "."))} == written
    accuracy = {name: re.search(r"accuracy +\| ([\d.]+) %", printed[name]) for name in ("train", "evaluate")}
    assert "| images   | 9 " in printed["evaluate"]
    assert accuracy["evaluate"] is not None
    assert f"| test accuracy | {accuracy['evaluate'][1]} %" in printed["train"]
    assert printed["predict"].count("\n| photos/") == 2
    assert "merged 24 weights into merged.safetensors" in printed["merge"]


@pytest.mark.slow
def test_a_fresh_process_gives_the_probabilities_of_training(run: Run, photos: Path) -> None:
    trained(run, photos, "out")
    images = sorted(photos.rglob("*.png"))[::4]
    command = [sys.executable, "-m", "tensorfact", "predict", "out", *map(str, images), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    model, transform, classes = load("out")
    assert transform is not None
    with torch.no_grad():
        expected = model(torch.stack([transform(open_rgb(path)) for path in images])).softmax(-1)
    assert [each["image"] for each in found] == list(map(str, images))
    for each, row in zip(found, expected, strict=True):
        assert each["classes"] == pytest.approx(dict(zip(classes, row.tolist(), strict=True)), abs=1e-6)


def test_all_layouts_of_one_split_give_one_result(run: Run, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    splits = stratify([path.parent.name for path in files], FRACTIONS, seed=0)
    for path, split in zip(files, splits, strict=True):
        (place := Path("split", split, path.parent.name)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label", "split"), *((str(p), p.parent.name, s) for p, s in zip(files, splits, strict=True))]
        )
    with zipfile.ZipFile("flat.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(photos.parent))
    found = [trained(run, data, f"out-{data}") for data in ("photos", "split", "list.csv", "flat.zip")]
    assert all(each["metrics"] == found[0]["metrics"] for each in found)
    assert all(each["digest"] == found[0]["digest"] for each in found)
    shutil.rmtree("split/test")
    without = trained(run, "split", "out-val")
    assert set(without["metrics"]) == {"val_accuracy"}  # type: ignore[call-overload]
    assert without["digest"] == found[0]["digest"]


def test_the_same_command_resumes_and_other_options_or_images_begin_again(run: Run, photos: Path) -> None:
    before = trained(run, photos, "out")
    (state,) = Path("out").glob("training-*.safetensors")
    time = state.stat().st_mtime_ns
    assert trained(run, photos, "out") == before
    assert state.stat().st_mtime_ns == time  # nothing was trained
    assert trained(run, photos, "out", "--restart")["digest"] == before["digest"]
    for words in (("--split-seed", "1"), ("--dropout", "0.5"), ("--lr", "0.01"), ("--scale", "2")):
        assert trained(run, photos, "out", "--restart", *words)["digest"] != before["digest"]
        assert len(list(Path("out").glob("training-*.safetensors"))) == 1
    again = trained(run, photos, "out", "--restart")
    (photos / "circles").rename(photos / "between")
    (photos / "stripes").rename(photos / "circles")  # as many images, of other classes
    assert trained(run, photos, "out", "--restart")["digest"] != again["digest"]


def test_images_that_were_added_are_not_taken_for_test_images(run: Run, photos: Path) -> None:
    trained(run, photos, "out")
    assert run("evaluate", "out", photos).returncode == 0
    shutil.copytree(photos, "moved")
    assert run("evaluate", "out", "moved").returncode == 0
    shutil.copy(photos / "circles" / "0.png", photos / "circles" / "00.png")
    refused = run("evaluate", "out", photos)
    assert refused.returncode == 2
    assert "--split all" in refused.stderr
    assert "| images   | 19 " in run("evaluate", "out", photos, "--split", "all").stdout


def test_a_command_does_not_overwrite_what_it_reads(refused: Callable[..., str], run: Run, photos: Path) -> None:
    trained(run, photos, "out")
    for words in (
        ("merge", MODEL, "out", "--out", "out/adapter.safetensors"),
        ("merge", "out", "--out", "out/adapter.safetensors"),
        ("merge", MODEL, "out", "--checkpoint", "base.safetensors", "--out", "base.safetensors"),
        ("convert", "out", "--format", "cp:rank=2", "--out", "out/adapter.safetensors"),
    ):
        assert "is also an input" in refused(*words)
    assert run("predict", "out", photos).returncode == 0


def test_evaluate_prints_numbers_for_programs(run: Run, refused: Callable[..., str], photos: Path) -> None:
    trained(run, photos, "out")
    found = json.loads(run("evaluate", "out", photos, "--split", "all", "--json").stdout)
    assert found.keys() == {"data", "split", "images", "accuracy", "loss"}
    assert (found["data"], found["split"], found["images"]) == ("photos", "all", 18)
    line = refused("evaluate", "out", "digits")
    assert "none of the classes of the data are classes of the model: expected some of 'circles'" in line
    assert "out is a folder with an adapter, not a model" in refused("train", "out", photos, "--out", "new")


def test_merge_finds_the_base_model_as_predict_does(refused: Callable[..., str], run: Run, photos: Path) -> None:
    trained(run, photos, "out")
    for words in (("merge", "out"), ("merge", MODEL, "out"), ("merge", MODEL, "out/adapter.safetensors")):
        assert run(*words, "--out", f"{len(words)}.safetensors").returncode == 0
    with_name, without = load_file("3.safetensors"), load_file("2.safetensors")
    assert with_name.keys() == without.keys()
    assert all(torch.equal(with_name[name], without[name]) for name in without)
    assert "leave it out" in refused("merge", "out", "--pretrained", "--out", "merged.safetensors")


def test_predict_reads_links_and_no_hidden_folders(run: Run, photos: Path) -> None:
    trained(run, photos, "out")
    Path("mixed").mkdir()
    Path("mixed", "link").symlink_to(photos / "circles")
    Path("mixed", "loop").symlink_to(Path("mixed").resolve())
    shutil.copytree(photos / "squares", "mixed/.ipynb_checkpoints")
    found = json.loads(run("predict", "out", "mixed", "--json").stdout)
    assert [Path(each["image"]).name for each in found] == [f"{number}.png" for number in range(6)]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read and write every folder")
def test_folders_that_may_not_be_used_are_named_first(refused: Callable[..., str], run: Run, photos: Path) -> None:
    Path("locked").mkdir(mode=0o555)
    assert "locked is read-only" in refused("train", MODEL, photos, "--out", "locked")
    trained(run, photos, "out")
    (photos / "circles").chmod(0)
    assert "circles cannot be read: got Permission denied" in refused("predict", "out", photos)


def test_evaluate_knows_classes_by_name(run: Run, photos: Path) -> None:
    trained(run, photos, "out", "--fractions", "0.5/0.5/0")
    whole = run("evaluate", "out", photos, "--split", "all")
    assert "| images   | 18 " in whole.stdout
    assert "| split    | val " in run("evaluate", "out", photos).stdout
    shutil.rmtree(photos / "circles")
    part = run("evaluate", "out", photos, "--split", "all")
    assert "| images   | 12 " in part.stdout
    (photos / "squares").rename(photos / "triangles")
    refused = run("evaluate", "out", photos, "--split", "all")
    assert refused.returncode == 2
    assert "'triangles' is none of the model's" in refused.stderr


def test_evaluate_needs_no_training_images(run: Run, refused: Callable[..., str], photos: Path) -> None:
    trained(run, photos, "out")
    for split in ("val", "test"):
        shutil.copytree(photos / "squares", f"{split}-only/{split}/squares")
        result = run("evaluate", "out", f"{split}-only")
        assert f"| split    | {split} " in result.stdout, result.stderr
        assert "| images   | 6 " in result.stdout
    Path("list.csv").write_text("path,label,split\nphotos/circles/0.png,circles,test\n")
    assert "| images   | 1 " in run("evaluate", "out", "folder:list.csv").stdout
    (photos / "circles" / "0.png").unlink()
    assert "does not exist" in refused("evaluate", "out", "list.csv")
    assert "--split test" in refused("evaluate", "out", "test-only", "--split", "train")
    Path("test-only/test/squares").rename("test-only/test/triangles")
    assert "'triangles' is none of the model's" in refused("evaluate", "out", "test-only")


def test_train_and_test_without_val(run: Run, refused: Callable[..., str], photos: Path) -> None:
    shutil.copytree(photos, "data/test")
    photos.rename("data/train")
    found: Any = trained(run, "data", "out", "--fractions", "0.5/0.5/0", "--split-seed", "3")
    assert found["data"]["sizes"] == {"train": 9, "val": 9, "test": 18}
    for split, count in (("test", 18), ("val", 9), ("train", 9), ("all", 36)):
        assert f"| images   | {count} " in run("evaluate", "out", "data", "--split", split).stdout
    shutil.copy("data/train/circles/0.png", "data/train/circles/00.png")
    assert "--split all" in refused("evaluate", "out", "data", "--split", "val")
    assert run("evaluate", "out", "data").returncode == 0, "the test images are still the same"


def test_images_of_a_gif_are_trained_on_and_predicted(run: Run, refused: Callable[..., str], photos: Path) -> None:
    for path in photos.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".gif"))
        path.unlink()
    trained(run, photos, "out")
    assert len(json.loads(run("predict", "out", photos, "--json").stdout)) == 18
    (photos / "circles" / "0.gif").rename("0.xyz")
    assert "0.xyz does not have the extension of an image" in refused("predict", "out", "0.xyz")


def test_a_model_without_a_classifier_predicts_and_evaluates_nothing(refused: Callable[..., str], photos: Path) -> None:
    adapt(load_model(MODEL[:-1] + ",num_classes=0)"), format="tt:rank=2").save_pretrained("features")
    for words in (("predict", "features", photos), ("evaluate", "features", photos)):
        assert "VisionTransformer has no classifier" in refused(*words)


def test_weights_of_a_file_are_found_from_another_folder(
    run: Run, refused: Callable[..., str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(load_model(MODEL, seed=3).state_dict(), "weights.safetensors")
    trained(run, photos, "out", "--checkpoint", "weights.safetensors")
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert run("predict", "../out", photos).returncode == 0
    Path("../weights.safetensors").rename("moved.safetensors")
    for words in (
        ("predict", "../out", photos),
        ("evaluate", "../out", photos),
        ("merge", "../out", "--out", "merged.safetensors"),
    ):
        line = refused(*words)
        assert f"{photos.parent}/weights.safetensors" in line
        assert "Fix: pass --checkpoint FILE" in line
        assert run(*words, "--checkpoint", "moved.safetensors").returncode == 0


def test_a_readme_of_one_s_own_is_refused_before_training(refused: Callable[..., str], run: Run, photos: Path) -> None:
    Path("out").mkdir()
    Path("out/README.md").write_text("# My project")
    assert "mv out/README.md out/NOTES.md" in refused("train", MODEL, photos, "--out", "out")
    assert [path.name for path in Path("out").iterdir()] == ["README.md"]
    Path("out/README.md").unlink()
    trained(run, photos, "out")
    trained(run, photos, "out")


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("train", MODEL, "photo", "--out", "out"), "photo"),
    (("train", MODEL, "photos", "--out", "out", "--fractions", "0.7,0.3"), "TRAIN/VAL/TEST"),
    (("train", MODEL, "photos", "--out", "out", "--fractions", "0.9/0.3/0"), "fractions"),
    (("train", MODEL, "photos", "--out", "out", "--format", "tt:rank=4", "--rank", "2"), "given twice"),
    (("train", MODEL, "photos", "--out", "out", "--rank", "999"), "rank"),
    (("train", "densenet121", "photos", "--out", "out"), "--by-shape"),
    (("train", MODEL, "photos", "--out", "photos/circles/0.png"), "0.png"),
    (("evaluate", "photos", "photos"), "photos holds no adapter"),
    (("evaluate", "nowhere", "photos"), "nowhere holds no adapter"),
    (("predict", "out.txt", "photos"), "out.txt"),
    (("predict", "photos/circles/0.png", "photos"), "photos/circles/0.png is a file"),
    (("train", MODEL, "photo", "--out", "out"), "did you mean 'photos'?"),
    (
        ("train", "nano", "digits", "--out", "out", "--fractions", "0.8/0.1/0.1"),
        "split already. Fix: leave out --fractions.",
    ),
    (("train", "nano", "digits", "--out", "out", "--split-seed", "2"), "leave out --split-seed."),
    (("train", MODEL, "photos", "--out", "out", "--split-seed", "9" * 30), "Fix: --split-seed 0."),
    (("train", MODEL, "photos", "--out", "out", "--rank", "(100,100)"), 'Fix: use --rank "(24,24)" or less.'),
    (("train", MODEL, "photos", "--out", "photos"), "lies in the folder of the images"),
    (("train", MODEL, "folder:photos", "--out", "photos/out"), "lies in the folder of the images"),
    (("merge", "--out", "merged"), "tensorfact merge FOLDER --out FILE"),
    (("merge", "photos/circles/0.png", "--out", "merged"), "tensorfact merge MODEL photos/circles/0.png --out merged"),
    (("merge", "photos", "--out", "merged"), "photos holds no adapter"),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES)
def test_a_mistake_is_one_line(refused: Callable[..., str], photos: Path, words: tuple[str, ...], named: str) -> None:
    assert named in refused(*words)
    assert not Path("out", "adapter.safetensors").exists()


@pytest.mark.parametrize("kind", ["broken", "text", "empty class"])
def test_what_is_no_image_is_named_before_training(refused: Callable[..., str], photos: Path, kind: str) -> None:
    path = photos / "circles" / ("9.png" if kind == "broken" else "9.txt" if kind == "text" else "x")
    if kind == "empty class":
        path = photos / "lines"
        path.mkdir()
    else:
        path.write_bytes(b"no image")
    assert str(path) in refused("train", MODEL, photos, "--out", "out")


def test_unusual_images_are_read_as_the_page_says(run: Run, photos: Path) -> None:
    """A class of one image, greyscale, transparency, and a picture that a camera has rotated."""
    (photos / "alone").mkdir()
    upright = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[:, None] * 6, (1, 20)))
    upright.save(photos / "alone" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).convert("RGB").save(photos / "circles" / "turned.png", exif=exif)
    upright.convert("RGBA").save(photos / "circles" / "clear.png")
    assert trained(run, photos, "out")["classes"] == ["alone", *CLASSES]
    plain, turned, clear = (
        open_rgb(photos / name) for name in ("alone/0.png", "circles/turned.png", "circles/clear.png")
    )
    assert plain.size == turned.size == clear.size
    assert np.array_equal(np.asarray(plain), np.asarray(turned))
    assert np.array_equal(np.asarray(plain), np.asarray(clear))
