"""The command line: tables, files, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tensorfact import AdapterState, TensorTrain, adapt, load_adapter, plan_for
from tensorfact.cli import main
from tensorfact.lab import nano


@dataclasses.dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; starting one costs seconds of imports."""

    def call(*words: str | Path) -> Result:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Return the one line that a mistake ends in."""

    def call(*words: str | Path) -> str:
        result = run(*words)
        assert result.returncode == 2, result.stderr
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    return call


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "adapter.safetensors"
    model = nano()
    adapter = adapt(model, plan_for(model), TensorTrain(rank=4), seed=0)
    with torch.no_grad():
        for number, core in enumerate(adapter.parameters()):
            core.copy_(torch.randn(core.shape, generator=torch.Generator().manual_seed(number)) / 10)
    adapter.save(path)
    return path


def test_plan_prints_tensors_and_counts(run: Run) -> None:
    result = run("plan", "vit_base_patch16_224", "--format", "tt:rank=16", "--format", "tucker:rank=8")
    assert result.returncode == 0, result.stderr
    assert "(layer role)=144 in=768 out=768" in result.stdout
    assert "61,440" in result.stdout
    assert "13,952" in result.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("hf:gpt2",), ("(layer role)=144 in=768 out=768", "wte.weight", "an embedding", "61,440")),
        (("hf:bert", "--mlp", "whole"), ("hid=3072", "encoder_mlp")),
        (("convnext_atto", "--blocks", "all", "--blocks", "depthwise"), ("depthwise[40,7,7]",)),
        (("densenet121", "--by-shape", "--format", "cp:rank=8"), ("matrices[128,128]", "cp rank=8")),
        (("resnext50_32x4d",), ("kernels[4,128,3,3]", "less where a tensor allows no more")),
        (("torch:Transformer",), ("decoder_layers", "vectors")),
    ],
    ids=lambda value: value[0],
)
def test_plan_knows_models_of_many_sources(run: Run, words: tuple[str, ...], shown: tuple[str, ...]) -> None:
    result = run("plan", *words)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert all(text in result.stdout for text in shown), result.stdout


def test_formats_lists_every_registered_name(run: Run) -> None:
    result = run("formats")
    assert result.returncode == 0, result.stderr
    assert all(f"| {path.stem} " in result.stdout for path in Path("docs/images/formats").iterdir())
    network = "U_U[in _U_1] U_V[_U_1 _1] S1[_1 (layer role) _2] V[_2 out]"
    assert network in result.stdout  # of the nested format


def test_the_pictures_in_the_documentation_are_those_that_are_drawn(run: Run, tmp_path: Path) -> None:
    assert run("formats", "--draw", tmp_path).returncode == 0
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in Path("docs/images/formats").iterdir()} == drawn


def test_plan_draws_a_picture(run: Run, tmp_path: Path) -> None:
    result = run("plan", "nano", "--draw", tmp_path / "plan.svg")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


def test_inspect_tells_what_a_file_holds(run: Run, adapter_file: Path) -> None:
    result = run("inspect", adapter_file)
    assert result.returncode == 0, result.stderr
    for expected in ("encoder", "tt rank=4", "U 96x4", "1,920", "head.weight 10x96", "base fingerprint"):
        assert expected in result.stdout


def test_merge_writes_the_weights_of_the_merged_model(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    result = run("merge", "nano", adapter_file, "-o", out)
    assert result.returncode == 0, result.stderr
    model, x = nano(), torch.randn(2, 1, 28, 28)
    load_adapter(model, adapter_file)
    plain = nano(pretrained=False)
    plain.load_state_dict(load_file(out))
    torch.testing.assert_close(plain(x), model(x))


def test_compare_trains_a_folder_of_images(run: Run, tmp_path: Path) -> None:
    from PIL import Image

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


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("compare", "--format", "tukcer:rank=8"), "did you mean 'tucker'?"),
        (("compare", "--format", "tt:rank=0"), "expected an int of at least 1, a fraction"),
        (("compare", "--format", "tt:rank=97"), "expected bond 1 <= 96"),
        (("compare", "--format", "tt:rnak=8"), "got rnak"),
        (("compare", "--format", "tt:rank=8;"), "NAME:option=value"),
        (("compare", "--scale", "nan"), "a finite number, got nan"),
        (("compare", "--data", "no-such-folder"), "folder:PATH"),
        (("compare", "--lr", "-1"), "fit: lr"),
        (("compare", "--device", "abacus"), "abacus"),
        (("plan", "vit_bse_patch16_224"), "did you mean 'vit_base_patch16_224'?"),
        (("plan", "densenet121"), "belongs to no known family"),
        (("plan", "densenet121", "--by-shape", "--mlp", "whole"), "--by-shape"),
        (("plan", "torch:Tensor"), "torch.nn has no module 'Tensor'"),
        (("plan", "jax:thing"), "begins with hf:, torch:"),
        (("plan", "mixer_s32_224", "--blocks", "attention"), "no attention blocks"),
        (("plan", "nano", "--blocks", "heads"), "expected one or several of"),
        (("inspect", "no-such-file"), "cannot read no-such-file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    refused: Callable[..., str], words: tuple[str, ...], named: str
) -> None:
    assert named in refused(*words)


def test_merge_refuses_another_base(refused: Callable[..., str], adapter_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 0.1 for name, tensor in nano().state_dict().items()}, other)
    line = refused("merge", "nano", adapter_file, "-o", tmp_path / "out.safetensors", "--checkpoint", other)
    assert "made for another base model" in line
    assert not (tmp_path / "out.safetensors").exists()


def test_inspect_refuses_a_damaged_file(refused: Callable[..., str], adapter_file: Path, tmp_path: Path) -> None:
    damaged = bytearray(adapter_file.read_bytes())
    damaged[-100] ^= 4
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    assert "is damaged" in refused("inspect", path)


def test_help_names_every_verb(run: Run) -> None:
    result = run("--help")
    assert all(verb in result.stdout for verb in VERBS)


VERBS = (
    "compare", "plan", "formats", "inspect", "merge", "calibrate",
    "extract", "convert", "round", "combine", "to-lora", "from-lora",
)  # fmt: skip


@pytest.fixture(scope="module")
def tuned_file(adapter_file: Path) -> Path:
    """Return weights that an adapter was merged into, and a bias that was tuned besides."""
    model = nano()
    adapter = load_adapter(model, adapter_file)
    adapter.merge()
    adapter.remove()
    with torch.no_grad():
        model.get_parameter("blocks.0.norm1.bias").add_(0.1)
    save_file({name: value.clone() for name, value in model.state_dict().items()}, adapter_file.parent / "tuned.st")
    return adapter_file.parent / "tuned.st"


def test_files_are_rounded_converted_and_combined(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for words, format in (
        (("round", adapter_file, "--rank", "2"), "tt rank=2"),
        (("round", adapter_file, "--rank", "0.001"), "tt rank=(1, 1)"),
        (("round", adapter_file, "--budget", "1000"), "tt rank=2"),
        (("round", adapter_file, "--tolerance", "0.5"), "tt rank=("),
        (("convert", adapter_file, "--format", "tucker:rank=full", "--tolerance", "1e-5"), "tucker rank=(16, 4, 4)"),
        (("combine", f"{adapter_file}=0.5"), "tt rank=4"),
    ):
        result = run(*words, "--out", out)
        assert result.returncode == 0, result.stderr
        assert format in result.stdout, result.stdout
        assert "relative error" in result.stdout
        assert load_adapter(nano(), out).num_parameters < 4000
        out.unlink()


def test_two_files_add(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "sum.safetensors"
    run("round", adapter_file, "--rank", "2", "--out", tmp_path / "second.safetensors")
    result = run("combine", adapter_file, f"{tmp_path / 'second.safetensors'}=-1", "--out", out, "--no-head")
    assert result.returncode == 0, result.stderr
    assert AdapterState.load(out).description.formats == {"encoder": TensorTrain(6)}
    assert not AdapterState.load(out).head


def test_a_tuned_model_is_extracted_and_ranks_formats(
    run: Run, adapter_file: Path, tuned_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    words = ("extract", "nano", tuned_file, "--format", "tt:rank=full", "--tolerance", "1e-3", "--keep", "--out", out)
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert "tt rank=(4, 4)" in result.stdout
    assert "blocks.0.norm1.bias" in result.stdout
    state = AdapterState.load(out)
    assert "blocks.0.norm1.bias" in state.head
    assert state.num_parameters == AdapterState.load(adapter_file).num_parameters
    base = tmp_path / "base.safetensors"
    save_file({name: value.clone() for name, value in nano().state_dict().items()}, base)
    assert run(*words[:3], "--base", base, "--dry-run").returncode == 0
    formats = ("--format", "tt:rank=2", "--format", "tt:rank=4")
    ranked = run("compare", "--increment", tuned_file, *formats, "--out", tmp_path)
    assert ranked.returncode == 0, ranked.stderr
    assert "best" in ranked.stdout
    assert json.loads((tmp_path / "increment.json").read_text())["rows"][1]["error"] < 1e-3
    assert (tmp_path / "increment.png").stat().st_size > 10_000


def test_lora_goes_out_and_comes_in(run: Run, adapter_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.safetensors"
    result = run("to-lora", "nano", adapter_file, "--out", tmp_path / "lora")
    assert result.returncode == 0, result.stderr
    assert "blocks.0.attn.qkv and 23 more" in result.stdout
    result = run(
        "from-lora", "nano", tmp_path / "lora", "--format", "tt:rank=full", "--tolerance", "1e-4", "--out", out
    )
    assert result.returncode == 0, result.stderr
    assert "times fewer numbers" in result.stdout
    assert AdapterState.load(out).num_parameters == 1920
    assert "rank=2" in run("from-lora", "nano", tmp_path / "lora", "--format", "tt:rank=2", "--dry-run").stdout


def test_a_dry_run_writes_nothing(run: Run, adapter_file: Path, tuned_file: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out", "--dry-run")
    for words in (
        ("round", adapter_file, "--rank", "2"),
        ("convert", adapter_file, "--format", "cp:rank=2"),
        ("combine", adapter_file),
        ("to-lora", "nano", adapter_file),
        ("extract", "nano", tuned_file),
    ):
        for each in ((*words, *out), (*words, "--dry-run")):
            result = run(*each)
            assert result.returncode == 0, result.stderr
            assert "nothing written" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("round", "{file}", "--rank", "2"), "nowhere to write"),
        (("round", "{file}", "--out", "{dir}/none/a.st", "--rank", "2"), "no folder"),
        (("round", "{file}", "--dry-run"), "one of rank, tolerance and budget, got none"),
        (("round", "{file}", "--rank", "x", "--dry-run"), "rank"),
        (("round", "{file}", "--budget", "3", "--dry-run"), "264"),
        (("round", "{dir}/none.st", "--rank", "2", "--dry-run"), "cannot read"),
        (("convert", "{file}", "--format", "cp:rank=1", "--tolerance", "1e-3", "--dry-run"), "tolerance 0.001"),
        (("round", "{file}", "--rank", "2", "--out", "{file}"), "is what is read"),
        (("round", "{file}", "--rank", "2", "--out", "{dir}"), "a folder"),
        (("from-lora", "nano", "{file}", "--dry-run"), "load_adapter"),
        (("combine", "{file}=x", "--dry-run"), "FILE=NUMBER"),
        (("combine", "{file}", "{file}", "--dry-run"), "there twice"),
        (("extract", "nano", "{file}", "--dry-run"), "no such tensor"),
        (("extract", "nano", "{dir}/none.st", "--dry-run"), "cannot read"),
        (("to-lora", "vit_tiny_patch16_224", "{file}", "--dry-run"), "tensor"),
        (("from-lora", "nano", "{dir}", "--dry-run"), "adapter_config.json"),
        (("compare", "--increment", "{dir}/none.st", "--out", "{dir}"), "cannot read"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_mistake_with_a_file_is_one_line(
    refused: Callable[..., str], adapter_file: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(*(word.format(file=adapter_file, dir=tmp_path) for word in words))
    assert not list(tmp_path.iterdir())


def test_a_process_ends_as_its_mistake_says() -> None:
    command = [sys.executable, "-c", "from tensorfact.cli import main; main()", "compare", "--format", "tt:rank=zero"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: TensorTrain: rank: expected an int of at least 1")
    assert result.stderr.count("\n") == 1
