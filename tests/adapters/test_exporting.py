"""What an adapter gives away changes neither the adapter nor its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorfact import adapt
from tensorfact.errors import AdaptError
from tensorfact.lab import nano
from tests.helpers import TT, Tiny, draw, qkv_plan, randomise, refused, untouched


@pytest.mark.parametrize("way", ["save", "save_pretrained", "to_lora"])
def test_writing_an_adapter_leaves_the_model_as_it_is(way: str, tmp_path: Path) -> None:
    model = randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT, seed=0)
    draw(adapter)
    with untouched(model):
        getattr(adapter, way)(tmp_path / "out")


def test_a_removed_adapter_is_not_written(tmp_path: Path) -> None:
    model = randomise(Tiny())
    adapter = adapt(model, qkv_plan(), TT)
    adapter.remove()
    with refused(AdaptError, "removed"):
        adapter.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("repository", [3, None])
def test_a_repository_has_a_name(repository: object) -> None:
    with refused(AdaptError, "push_to_hub: repository"):
        adapt(randomise(Tiny()), qkv_plan(), TT).push_to_hub(repository)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [["a"], list("abcdefghijk"), ["a"] * 10, "abcdefghij"])
def test_there_is_one_name_for_each_class(classes: object, tmp_path: Path) -> None:
    with refused(AdaptError, "save_pretrained"):
        adapt(nano()).save_pretrained(tmp_path / "out", classes=classes)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
