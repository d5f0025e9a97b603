"""Data opens by name, and an unknown name raises with the nearest one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorfact.errors import DataError
from tensorfact.lab import nano, open_task
from tensorfact.lab.data import FEW_SHOT, VTAB, Task, task_info
from tensorfact.lab.data.tasks import images_path, require_data
from tests import make_benchmarks
from tests.helpers import refused, samples_of
from tests.lab.data.making import lay_out, pack, table, write_csv, write_image


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    make_benchmarks.write_benchmarks(root, images=2, size=24)
    return root


def test_every_task_of_the_benchmarks_opens_with_what_it_says(root: Path) -> None:
    model = nano()
    names = [f"vtab:{task}" for task in VTAB] + [f"few-shot:{task}:1:2" for task in FEW_SHOT]
    for name in names:
        data, task = open_task(name, model, root=root), task_info(name)
        assert (data.name, data.classes) == (task.name, task.classes) == (name, task.classes)
        assert data.sizes["train"] == 2
        assert data.train[0][0].shape == (1, 28, 28)


def test_a_root_may_be_the_benchmark_itself(root: Path) -> None:
    assert open_task("vtab:dtd", nano(), root=root / "vtab-1k", check=False).classes == 47
    name = "few-shot:food-101:16:0"
    assert open_task(name, nano(), root=str(root / "few-shot"), check=False).sizes["train"] == 32


def test_other_names_open(tmp_path: Path) -> None:
    lay_out(tmp_path / "pets")
    for name, classes in (("folder:pets", 2), (f"folder:{tmp_path / 'pets'}", 2), ("sprites-location", 16)):
        data = open_task(name, nano(), root=tmp_path)
        assert (data.name, data.classes) == (name, classes)
    assert open_task("digits", nano()).sizes["test"] == 797
    (tmp_path / "fashion-mnist").mkdir()
    with pytest.raises(DataError, match=r"fashion-mnist/train-images.*tensorfact fetch fashion-mnist"):
        open_task("fashion-mnist", nano(), root=tmp_path)


def test_what_a_name_says_by_itself() -> None:
    assert task_info("digits") == Task("digits", 10, "")
    assert task_info("sprites-orientation") == Task("sprites-orientation", 16, "")
    assert task_info("vtab:kitti") == Task("vtab:kitti", 4, "structured")
    assert task_info("few-shot:stanford_cars:16:2") == Task("few-shot:stanford_cars:16:2", 196, "few-shot")
    assert task_info("few-shot:birds:1:0") == Task("few-shot:birds:1:0", None, "few-shot")
    assert task_info("hf:user/name") == Task("hf:user/name", None, "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "did you mean 'digits'"),
        ("fashion_mnist", "did you mean 'fashion-mnist'"),
        ("vtab:cifra", "did you mean 'vtab:cifar'"),
        ("vtba:cifar", "did you mean 'vtab:cifar'"),
        ("vtab", "vtab:TASK"),
        ("vtab:", "vtab:TASK"),
        ("digits:", "digits"),
        ("digits:3", "digits"),
        ("few-shot:food-101:1", "few-shot:TASK:SHOTS:SEED"),
        ("few-shot:food-101:one:0", "few-shot:TASK:SHOTS:SEED"),
        ("few-shot:food-101:1:0:0", "few-shot:TASK:SHOTS:SEED"),
        ("", "digits"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        task_info(name)
    with pytest.raises(DataError, match=words):
        open_task(name, nano(), root=tmp_path)


def test_a_benchmark_needs_a_root() -> None:
    with pytest.raises(DataError, match="vtab:cifar needs a root"):
        open_task("vtab:cifar", nano())


def test_imagenets_statistics_reach_every_source(root: Path) -> None:
    lay_out(root / "pets")
    table(6).save_to_disk(str(root / "saved"))
    names = ["digits", "sprites-location", "vtab:cifar", "few-shot:food-101:1:0", "folder:pets", "hf:saved"]
    for name in [*names, f"timm:{root / 'pets'}"]:
        with pytest.raises(DataError, match="a model of 3 channels"):
            open_task(name, nano(), root=root, imagenet_statistics=True)


def test_a_path_that_exists_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(Path("photos"))
    pack(Path("photos"), Path("photos.zip"))
    write_csv(Path("list.csv"), [("photos/train/a/one.png", "a", "train"), ("photos/val/a/one.png", "a", "val")])
    for name, called in (("photos", "photos"), ("photos/", "photos"), ("photos.zip", "photos"), ("list.csv", "list")):
        assert task_info(name) == Task(name, None)
        data = open_task(name, nano(), root=tmp_path / "elsewhere")
        assert (data.name, data.class_names[0]) == (called, "a")
    for name in ("folder:photos.zip", "folder:list.csv"):
        assert open_task(name, nano(), root=tmp_path).name == name
    Path("digits").mkdir()
    assert open_task("digits", nano()).name == "digits"


def test_the_path_of_images_is_found_from_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert images_path("digits") is None, "a name of a task has precedence"
    assert images_path("digits/") == Path("digits")
    assert images_path("folder:photos") == Path("photos")
    assert images_path("folder:photos", tmp_path) == tmp_path / "photos"
    with refused(DataError, "there is no folder or file 'photos', and no task of this name"):
        images_path("photos")


def test_fractions_and_seed_reach_the_sources_that_take_them(root: Path, tmp_path: Path) -> None:
    for at in range(10):
        write_image(tmp_path / "photos" / "cat" / f"{at}.png", str(at))
    for name in (f"{tmp_path}/photos", "folder:photos"):
        data = open_task(name, nano(), root=tmp_path, fractions=(0.5, 0.5, 0), seed=3)
        assert data.sizes == {"train": 5, "val": 5, "test": 0}
        assert data.val.samples != open_task(name, nano(), root=tmp_path, fractions=(0.5, 0.5, 0)).val.samples  # type: ignore[attr-defined]
    one, other = (open_task("sprites-location", nano(), seed=seed) for seed in (0, 1))
    assert [int(y) for _, y in samples_of(one.val)] != [int(y) for _, y in samples_of(other.val)]
    names = ["digits", "vtab:cifar", "few-shot:food-101:1:0", "sprites-location", "fashion-mnist", "timm:a", "hf:a"]
    for name in names:
        with refused(
            DataError, f"open_task: fractions does not apply to {name!r}", "split already", "leave out fractions="
        ):
            open_task(name, nano(), root=root, fractions=(0.5, 0.5, 0))
    for name in names[:3]:
        assert open_task(name, nano(), root=root, seed=0, fractions=[0.7, 0.15, 0.15], check=False).name == name
        with refused(DataError, f"open_task: seed does not apply to {name!r}"):
            open_task(name, nano(), root=root, seed=1)


@pytest.mark.parametrize("name", ["photos/", "a/photos", "photos.zip", "photos.tar.gz", "list.csv", "C:/photos"])
def test_a_path_that_does_not_exist_is_refused_with_the_layouts(name: str) -> None:
    with refused(
        DataError, f"{name.rstrip('/')} does not exist", "FOLDER/{train,val}/CLASS/FILE", ".zip", "path,label"
    ):
        open_task(name, nano())
    assert task_info(name).classes is None


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("vtab:svhn", "missing", "missing"),
        ("folder:birds", "", "birds"),
        ("folder:birds", ".", "birds"),
        ("birds/", "", "birds"),
        ("birds.zip", "", "birds.zip"),
        ("vtab:svnh", "", "vtab:svhn"),
    ],
)
def test_missing_data_is_found_without_opening_it(name: str, given: str, words: str, tmp_path: Path) -> None:
    with refused(DataError, words, fix=name != "vtab:svnh"):
        require_data(name, tmp_path / given if given else None)
    for known in ("digits", "vtab:svhn", "hf:birds", "timm:birds"):
        require_data(known, None)
    require_data(str(tmp_path), None)
