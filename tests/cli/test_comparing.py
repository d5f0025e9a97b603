"""The command compare: what it trains, writes, and says about the base model."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.cli.calls import Run


def test_compare_trains_a_folder_of_images(run: Run, tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for label, shade in (("dark", 20), ("light", 230)):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", (32, 32), shade + number).save(folder / f"{number}.png")
    out = tmp_path / "out"
    result = run(
        "compare", "--data", tmp_path / "data", "--format", "tt:rank=2", "--seeds", "1", "--epochs", "2", "--out", out
    )
    assert result.returncode == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"run_info", "train_info", "meta_info"}
    assert results["run_info"]["data"] == {"name": "data", "classes": 2, "train": 8, "val": 4, "test": 4}
    assert results["meta_info"]["tt rank=2"]["parameters"] == 672
    assert "tt rank=2" in (out / "table.md").read_text()
    with Image.open(out / "accuracy.png") as picture:
        assert picture.width > 500


def test_two_equal_comparisons_of_a_model_with_random_weights_are_equal(run: Run, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224(img_size=16,patch_size=8,in_chans=1,depth=1,embed_dim=24,num_heads=2)"
    words = f"compare --format tt:rank=1 --baseline linear --seeds 1 --epochs 1 --model {name}".split()
    found = []
    for out in (tmp_path / "one", tmp_path / "two"):
        result = run(*words, "--out", out)
        assert result.returncode == 0, result.stderr
        assert "are random (seed 0); --pretrained" in result.stdout
        found.append(json.loads((out / "results.json").read_text()))
    one, two = (each["train_info"]["tt rank=1"] for each in found)
    assert [one[f"{split}_accuracy"] for split in ("val", "test")] == [
        two[f"{split}_accuracy"] for split in ("val", "test")
    ]
    origin = found[0]["run_info"]["model"]["origin"]
    assert (origin["name"], origin["seed"], origin["pretrained"], origin["checkpoint"]) == (name, 0, False, None)


def test_compare_trains_an_image_classifier_of_transformers(run: Run, tmp_path: Path) -> None:
    sizes = "image_size=16,patch_size=8,hidden_size=32,num_hidden_layers=1,num_attention_heads=4,intermediate_size=64"
    words = f"compare --format tt:rank=1 --baseline full --seeds 1 --epochs 1 --model hf:vit({sizes})".split()
    result = run(*words, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["meta_info"]["tt rank=1"]["parameters"] == 32 + 8 + 32
    assert results["train_info"]["tt rank=1"]["merge_error"] < 1e-4
    assert results["run_info"]["model"]["origin"]["options"]["architecture"] == "AutoModelForImageClassification"
