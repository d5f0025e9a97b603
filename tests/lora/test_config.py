"""Where the scale of a LoRA file comes from, judged by peft's own model, and configurations that are refused."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from tensorfact import MatrixBatch, TensorTrain, from_lora, load_adapter, plan_by_shape
from tensorfact.errors import CheckpointError, DataError
from tensorfact.lora.config import read_config, scale_of
from tensorfact.lora.files import read_layers
from tensorfact.storage.files import StoredTensors
from tests.helpers import difference, infer, randomise, refused, untouched
from tests.lora.saved import CONFIGS, Small, saved_by_peft
from tests.memory import MEASURED, mark, risen

X = torch.linspace(-1, 1, 48).reshape(4, 12)
FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def loaded(base: Small, path: Path) -> Small:
    found = from_lora(base, path, plan_by_shape(base), MatrixBatch("full"), tolerance=1e-6)
    load_adapter(base, found.state, check=False)
    return base


@pytest.mark.parametrize(
    "name", ["lora", "patterns", "a layer switched off", "an alpha of 0", "rslora", "loha", "lokr"]
)
def test_a_file_in_its_folder_has_the_folder_s_alpha(name: str, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS[name](), tmp_path)
    assert difference(infer(loaded(base, tmp_path / FILE), X), infer(model, X)) < 1e-5


@pytest.mark.parametrize("name", ["lora", "patterns", "rslora"])
def test_a_file_of_diffusers_has_its_alpha_in_its_metadata(name: str, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS[name](), tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / CONFIG).read_text())
    words = {f"transformer.{key}": value for key, value in config.items() if key != "peft_type"}
    save_file(
        load_file(tmp_path / "peft" / FILE), tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(words)}
    )
    assert difference(infer(loaded(base, tmp_path / "a.safetensors"), X), infer(model, X)) < 1e-5


@pytest.mark.parametrize("rank", ["2", None, "?"])
def test_a_file_of_kohya_has_its_alpha_in_its_metadata(rank: str | None, tmp_path: Path) -> None:
    base, model = saved_by_peft(CONFIGS["lora"](), tmp_path / "peft")
    words = {"ss_network_alpha": "5.0", **({} if rank is None else {"ss_network_dim": rank})}
    save_file(load_file(tmp_path / "peft" / FILE), tmp_path / "a.safetensors", words)
    assert difference(infer(loaded(base, tmp_path / "a.safetensors"), X), infer(model, X)) < 1e-5


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor(2),
        torch.tensor([2.0]),
        *(torch.tensor(2, dtype=d) for d in (torch.uint8, torch.int16, torch.int32, torch.bfloat16, torch.float64)),
    ],
    ids=repr,
)
def test_an_alpha_of_any_real_dtype_is_read(alpha: torch.Tensor, tmp_path: Path) -> None:
    down, up = torch.randn(2, 12), torch.randn(12, 2)
    save_file({"q.lora_down.weight": down, "q.lora_up.weight": up, "q.alpha": alpha}, tmp_path / "a.safetensors")
    base = torch.nn.Sequential()
    base.q, base.k = torch.nn.Linear(12, 12), torch.nn.Linear(12, 12)
    found = from_lora(base, tmp_path / "a.safetensors", plan_by_shape(base), MatrixBatch(2))
    adapter = load_adapter(base, found.state, check=False)
    assert difference(adapter.delta("q.weight").detach(), up @ down) < 1e-5


LORA = {"lora_down.weight": (2, 12), "lora_up.weight": (12, 2)}
LOHA = {"hada_w1_a": (12, 2), "hada_w1_b": (2, 12), "hada_w2_a": (12, 2), "hada_w2_b": (2, 12)}
LOKR = {"lokr_w1_a": (3, 2), "lokr_w1_b": (2, 3), "lokr_w2": (4, 4)}


@pytest.mark.parametrize("alpha", [torch.tensor(0), torch.tensor(0.0), torch.tensor([-0.0])], ids=repr)
@pytest.mark.parametrize("keys", [LORA, LOHA, LOKR], ids=["LoRA", "LoHa", "LoKr"])
def test_an_alpha_of_zero_in_the_file_switches_its_layer_off(
    keys: dict[str, tuple[int, int]], alpha: torch.Tensor, tmp_path: Path
) -> None:
    file = {f"blocks.{at}.q.{key}": torch.randn(shape) for at in range(2) for key, shape in keys.items()}
    file |= {"blocks.0.q.alpha": alpha, "blocks.1.q.alpha": torch.tensor(1.0)}
    save_file(file, tmp_path / "a.safetensors")
    base = randomise(Small())
    found = from_lora(base, tmp_path / "a.safetensors", plan_by_shape(base), MatrixBatch("full"), tolerance=1e-6)
    adapter = load_adapter(base, found.state, check=False)
    assert [bool(adapter.delta(f"blocks.{at}.q.weight").abs().max() > 1e-5) for at in range(2)] == [False, True]


def test_two_modules_whose_flattened_names_coincide_are_refused(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a_b": torch.nn.Linear(4, 4), "a": torch.nn.ModuleDict({"b": torch.nn.Linear(4, 4)})})
    keys = {"lora_down.weight": torch.ones(1, 4), "lora_up.weight": torch.ones(4, 1)}
    save_file({f"lycoris_a_b.{name}": value.clone() for name, value in keys.items()}, tmp_path / "a.safetensors")
    with refused(DataError, "a_b", "a.b", "underscores"):
        from_lora(model, tmp_path / "a.safetensors", plan_by_shape(model), TensorTrain(1))


HANGING = [
    *("((.+)+)+X", "(a|aa)+$", "(.*)*b", ".*.*.*.*x", "(?:a+){1,}", "(a+){20}", "(?=.*a)+", "(x+x+)+y"),
    *(r"(\w+\s?)*!", ".?" * 30 + "X", "(.|.)" * 30 + "X", "b?" * 40, "(?:a|(b|c|a))" * 20, ".{0,9}" * 4, "x" * 2001),
]


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", HANGING)
def test_a_pattern_that_may_not_end_is_refused_at_once(pattern: str, key: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    words = json.loads((tmp_path / CONFIG).read_text()) | {key: {pattern: 2}}
    (tmp_path / CONFIG).write_text(json.dumps(words))
    start = time.perf_counter()
    with untouched(base), refused(DataError, "pattern", "names of the layers"):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"peft_type": "OFT", "r": 0}, DataError, "OFT"),
        ({"peft_type": "IA3"}, DataError, "IA3"),
        ({"peft_type": None}, CheckpointError, "peft_type=None"),
        ({"use_dora": True}, DataError, "use_dora=True"),
        ({"r": 10**400}, CheckpointError, "damaged"),
        ({"lora_alpha": float("nan")}, CheckpointError, "damaged"),
        ({"alpha_pattern": {"q": True}}, CheckpointError, "damaged"),
        ({"rank_pattern": {"q": 0}}, CheckpointError, "damaged"),
    ],
)
def test_a_configuration_that_cannot_be_read_names_its_cause(
    words: dict[str, Any], error: Any, says: str, tmp_path: Path
) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(json.loads((tmp_path / CONFIG).read_text()) | words))
    with untouched(base), refused(error, str(tmp_path), says):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "{", "\ud800"])
def test_a_text_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    (tmp_path / CONFIG).write_bytes(text.encode("utf-8", "surrogatepass"))
    with untouched(base), refused(CheckpointError, str(tmp_path), "save_pretrained"):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


def test_a_folder_with_a_pickle_says_how_to_convert_it(tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    (tmp_path / FILE).rename(tmp_path / "adapter_model.bin")
    with refused(DataError, "adapter_model.bin", "safe_serialization=True"):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


@pytest.mark.parametrize(
    "keys",
    [
        {"hada_w1_a": (4000, 1), "hada_w1_b": (1, 4000), "hada_w2_a": (4000, 1), "hada_w2_b": (1, 4000)},
        {"lokr_w1": (2000, 2), "lokr_w2": (2, 2000)},
        {"lokr_w1_a": (6, 300), "lokr_w1_b": (300, 6), "lokr_w2": (3, 3)},
        {"lora_down.weight": (2, 12), "lora_up.weight": (4000, 2)},
    ],
)
def test_sizes_that_are_not_the_layer_s_are_refused_before_anything_is_allocated(
    keys: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    base = randomise(Small())
    save_file({f"blocks.0.q.{name}": torch.ones(shape) for name, shape in keys.items()}, tmp_path / "a.safetensors")
    with untouched(base), refused(DataError, "'blocks.0.q'", "(12, 12)", fix=False):
        from_lora(base, tmp_path / "a.safetensors", plan_by_shape(base), TensorTrain("full"))


@pytest.mark.parametrize("rank", [3, 12, 200])
def test_a_product_of_more_ranks_than_the_layer_has_is_formed_in_the_layer_s_size(rank: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hada_w1_a": (12, rank), "hada_w1_b": (rank, 12), "hada_w2_a": (12, rank), "hada_w2_b": (rank, 12)}
    keys = {name: torch.randn(shape, generator=generator) / rank**0.5 for name, shape in shapes.items()}
    wa, wb = torch.randn(4, rank, generator=generator) / rank**0.5, torch.randn(rank, 3, generator=generator)
    w2 = torch.randn(3, 4, generator=generator)
    lokr = {"lokr_w1_a": wa, "lokr_w1_b": wb, "lokr_w2": w2}
    file = {f"blocks.0.q.{name}": value for name, value in keys.items()}
    file |= {f"blocks.0.k.{name}": value for name, value in lokr.items()}
    save_file(file, tmp_path / "a.safetensors")
    base = randomise(Small())
    found = from_lora(base, tmp_path / "a.safetensors", plan_by_shape(base), MatrixBatch("full"), tolerance=1e-5)
    adapter = load_adapter(base, found.state, check=False)
    dense = (keys["hada_w1_a"] @ keys["hada_w1_b"]) * (keys["hada_w2_a"] @ keys["hada_w2_b"])
    assert difference(adapter.delta("blocks.0.q.weight").detach(), dense) < 1e-3
    assert difference(adapter.delta("blocks.0.k.weight").detach(), torch.kron(wa @ wb, w2)) < 1e-3


@pytest.mark.parametrize(
    "pattern", [r".*\.0\.q", r"blocks\.\d+\.(q|fc)", "^blocks\\.[01]\\.q$", "q", "(.*attn.*|.*mlp.*)", "a|b|q"]
)
def test_patterns_of_the_usual_kind_are_read(pattern: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    words = json.loads((tmp_path / CONFIG).read_text()) | {"alpha_pattern": {pattern: 2.0}}
    (tmp_path / CONFIG).write_text(json.dumps(words))
    config = read_config(tmp_path, StoredTensors(tmp_path / FILE))
    for layer in ("blocks.0.q", "blocks.1.fc", "blocks.12.q", "x.attn.y"):
        judged = 2.0 if get_pattern_key([pattern], layer) == pattern else 5.0
        assert scale_of(layer, {}, config, 2) == judged / 2
    assert base is not None


@pytest.mark.parametrize("count", [10_001, 20_000, 50_000])
def test_more_patterns_than_a_model_has_layers_are_refused(count: int, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    words = json.loads((tmp_path / CONFIG).read_text()) | {"rank_pattern": {f"a{at}": 2 for at in range(count)}}
    (tmp_path / CONFIG).write_text(json.dumps(words))
    with untouched(base), refused(DataError, str(tmp_path), "fewer patterns"):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


WRONG: list[Any] = [
    *(None, True, False, "x", "", -1, 0, 1.5, [], [1], {}, {"q": []}, {"q": None}, {"q": "2"}, {"q": -1}, {"q": True}),
    *({"": 2}, {"(": 2}, 10**400, float("nan"), float("inf"), "\ud800", "\x1b[31m" * 1000, [[]], {"x": {"y": [1]}}),
]


@pytest.mark.parametrize(
    "field",
    [
        *("peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias"),
        *("init_lora_weights", "target_modules", "modules_to_save", "fan_in_fan_out", "auto_mapping"),
    ],
)
def test_a_field_of_a_wrong_type_is_read_or_refused_with_the_name_of_the_file(field: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    words = json.loads((tmp_path / CONFIG).read_text())
    for value in WRONG:
        (tmp_path / CONFIG).write_text(json.dumps(words | {field: value}))
        message = ""
        try:
            layers, _ = read_layers(base, tmp_path)
            assert all(bool(layer.increment().up.isfinite().all()) for layer in layers.values())
        except (CheckpointError, DataError) as error:
            message = str(error)
        assert not message or str(tmp_path) in message or "of its configuration" in message
        assert len(message) < 1000
        assert message.isprintable()


@pytest.mark.parametrize("kind", ["FIFO", "folder", "bytes", "huge"])
def test_what_is_no_configuration_file_is_refused(kind: str, tmp_path: Path) -> None:
    base, _ = saved_by_peft(CONFIGS["lora"](), tmp_path)
    (tmp_path / CONFIG).unlink()
    if kind == "FIFO":
        os.mkfifo(tmp_path / CONFIG)
    elif kind == "folder":
        (tmp_path / CONFIG).mkdir()
    elif kind == "bytes":
        (tmp_path / CONFIG).write_bytes(bytes(range(256)))
    else:
        (tmp_path / CONFIG).touch()
        os.truncate(tmp_path / CONFIG, 2**40)
    with untouched(base), refused(CheckpointError, CONFIG):
        from_lora(base, tmp_path, plan_by_shape(base), TensorTrain("full"))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=["q"]), "use_dora=True"),
        (lambda: peft.OFTConfig(r=2, oft_block_size=0, target_modules=["q"]), "OFT"),
        (lambda: peft.IA3Config(target_modules=["q"], feedforward_modules=[]), "IA3"),
        (lambda: peft.VeraConfig(r=2, target_modules=["q"]), "VERA"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_method_that_is_not_read_is_named(config: Any, says: str, alone: bool, tmp_path: Path) -> None:
    base, _ = saved_by_peft(config(), tmp_path)
    path = tmp_path
    if alone:  # a file without its configuration
        path = (tmp_path / FILE).rename(tmp_path / "other.safetensors")
    with untouched(base), refused(DataError, "DoRA, OFT or another method" if alone else says, "extract()"):
        from_lora(base, path, plan_by_shape(base), TensorTrain("full"))


def peak(use: Any) -> int:
    """Return by how many bytes the memory of this process rises at most while `use` is called."""
    before = mark()
    use()
    return risen(before)


@pytest.mark.skipif(not MEASURED, reason="the peak cannot be reset here")
@pytest.mark.parametrize(
    "keys",
    [
        {"lokr_w1": (80, 80), "lokr_w2": (80, 80)},
        {"lokr_w1": (2, 3200), "lokr_w2": (3200, 2)},
        {"lokr_w1_a": (6000, 1), "lokr_w1_b": (1, 300), "lokr_w2_a": (300, 1), "lokr_w2_b": (1, 6000)},
        {"hada_w1_a": (20_000, 1), "hada_w1_b": (1, 20_000), "hada_w2_a": (20_000, 1), "hada_w2_b": (1, 20_000)},
        {"hada_w1_a": (12, 800), "hada_w1_b": (800, 12), "hada_w2_a": (12, 800), "hada_w2_b": (800, 12)},
        {"lora_A.weight": (4000, 12), "lora_B.weight": (12, 4000)},
        {"lora_A.weight": (2, 20_000), "lora_B.weight": (20_000, 2)},
        {"lokr_w1": (0, 10**9), "lokr_w2": (10**9, 0)},
    ],
    ids=lambda keys: " ".join(f"{name}{shape}" for name, shape in keys.items()),
)
def test_a_small_file_costs_little_memory_whatever_it_claims(keys: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    base, path = randomise(Small()), tmp_path / "a.safetensors"
    save_file({f"blocks.0.q.{name}": torch.full(shape, 0.01) for name, shape in keys.items()}, path)

    def read() -> None:
        with contextlib.suppress(DataError):
            from_lora(base, path, plan_by_shape(base), TensorTrain("full"), tolerance=1e-6)

    assert peak(read) <= 20 * path.stat().st_size + 50_000_000


@pytest.mark.skipif(not MEASURED, reason="the peak cannot be reset here")
@pytest.mark.parametrize(
    "last",
    [
        {"lokr_w1": (32, 32)},
        {"lokr_w1": (32, 31), "lokr_w2": (32, 32)},
        {"hada_w1_a": (1024, 1), "hada_w1_b": (1, 1024)},
        {"lora_A.weight": (2, 1024), "lora_B.weight": (1023, 2)},
    ],
    ids=lambda keys: " ".join(f"{name}{shape}" for name, shape in keys.items()),
)
def test_no_layer_is_formed_before_the_last_is_checked(last: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    base, path = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(9))), tmp_path / "a.safetensors"
    sound = {f"{layer}.lokr_w{k}": torch.ones(32, 32) for layer in range(8) for k in (1, 2)}
    save_file(sound | {f"8.{name}": torch.ones(shape) for name, shape in last.items()}, path)

    def read() -> None:
        with refused(DataError, "layer '8'", str(path)):
            from_lora(base, path, plan_by_shape(base), TensorTrain(2))

    assert peak(read) <= 20 * path.stat().st_size + 50_000_000
