"""Every verb of the command line, with words and files that may be wrong."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save

from tensorfact import TensorTrain, adapt, plan_for, to_lora
from tensorfact.cli import main
from tensorfact.errors import TensorfactError
from tensorfact.lab import nano
from tests.fuzz.case import Case
from tests.fuzz.containers import damaged
from tests.fuzz.sweeps import SWEEP, files
from tests.fuzz.values import dumped, garbled, garbled_text, odd

VERBS = (
    "formats --draw {new}",
    "inspect {file}",
    "plan nano --format tt:rank=4 --format cp:rank=2 --blocks attention --mlp whole --draw {new}",
    "plan nano --by-shape --format tucker:rank=(2,2,2)",
    "merge nano {file} --out {new}",
    "convert {file} --format cp:rank=2 --out {new} --tolerance 0.9",
    "round {file} --rank 1 --out {new}",
    "round {file} --budget 500 --dry-run",
    "combine {file}=0.5 {other}=2 --out {new} --rank 2 --no-head",
    "extract nano {weights} --out {new} --format matrix-batch:rank=1 --blocks attention --scale 2",
    "to-lora nano {file} --out {new} --rank 2 --no-head",
    "from-lora nano {lora} --out {new} --format tt:rank=2 --tolerance 0.99",
    "compare --data nowhere --epochs 1 --seeds 1 --batch-size 8 --lr 0.1 --device cpu --baseline linear --out {new}",
    "train nano nowhere/ --out {new} --format tt --rank 2 --fractions 0.7/0.15/0.15 --seed 1 --device cpu",
    "evaluate {file} nowhere/ --split all --device cpu",
    "predict {file} {weights} --top 2 --json --device cpu",
    "calibrate --device nowhere",
    "sweep --preset small --part tasks --method tt:rank=1 --task digits --scale 1 --seeds 1 --epochs 2 --specs",
    "sweep --preset paper --row FacT-TT16 --lr 0.01 --protocol as-released --dry-run --out {new}",
    "run {spec} --data-root nowhere --device cpu --out {new}",
    "compare --increment {weights} --format tt:rank=1 --out {new}",
    "report {runs} --out {new}",
)
"""The verbs with right words; the last two draw pictures, which takes long, and are chosen less often."""
FIXED = {
    "compare",
    "--data",
    "nowhere",
    "train",
    "nowhere/",
    "--increment",
    "sweep",
    "--specs",
    "--dry-run",
    "calibrate",
    "--data-root",
    "run",
}
"""Words that stay, since a command without them trains or measures for longer than a case may take."""

WORDS = (
    "",
    "-",
    "--",
    "--out",
    "--help",
    "-1",
    "0",
    "1e400",
    "nan",
    "9" * 30,
    "nano",
    "tt:rank=2",
    "=",
    "{file}",
    "{new}/a",
)


@functools.cache
def inputs() -> dict[str, bytes]:
    """Return the files that the commands read, undamaged."""
    model, plan = nano(), plan_for(nano(), "attention")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = adapt(model, plan, TensorTrain(2), check=False, seed=0)
        adapter.save(Path(folder, "a"))
        to_lora(adapter, nano(), Path(folder, "lora"))
        found = {"file": Path(folder, "a").read_bytes(), "other": Path(folder, "a").read_bytes()}
        found |= {f"lora/{path.name}": path.read_bytes() for path in Path(folder, "lora").iterdir()}
    found["weights"] = save({name: value + 0.01 for name, value in nano().state_dict().items()})
    part = SWEEP.parts[0]
    found["spec"] = SWEEP.spec(part, "vtab:svhn", "tt:rank=1", 1.0, 0, "select").to_json().encode()
    return found


def command_case(rng: Random, folder: Path) -> Case:
    """Call the command line with wrong words, or with a damaged file."""
    verb = rng.choice(VERBS if rng.random() < 0.1 else VERBS[:-2])
    words, broken = (
        verb.split(),
        {name: raw for name, raw in inputs().items() if f"{{{name.partition('/')[0]}}}" in verb},
    )
    if broken and rng.random() < 0.4:
        name = rng.choice(sorted(broken))
        sealed = name in ("file", "other") and rng.random() < 0.7
        broken[name] = damaged(rng, broken[name]) if sealed else garbled(rng, broken[name])
    if len(words) > 1 and rng.random() < 0.8:
        words = _changed(rng, words)
    if "{runs}" in verb:
        broken |= {f"runs/{name}": text.encode() for name, text in files(finished=False).items()}
    for name, raw in broken.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(raw)
    names = ("file", "other", "weights", "lora", "spec", "runs", "new")
    paths = {name: str(folder / name) for name in names}
    for name, path in paths.items():
        words = [word.replace(f"{{{name}}}", path) for word in words]
    what = " ".join(words).encode(errors="replace").decode().replace(str(folder), "")
    return Case(what, lambda: call(words), other=_bundled(), begins=words[0] == "run")


@functools.cache
def _bundled() -> int:
    """Return the bytes of the bundled model's weights in fp32, which most verbs read too."""
    return sum(parameter.nbytes for parameter in nano().parameters())


def _changed(rng: Random, words: list[str]) -> list[str]:
    """Return words with one changed, left out, doubled or added."""
    places = [place for place, word in enumerate(words) if word not in FIXED and place]
    if not places:
        return words
    at, way = rng.choice(places), rng.randrange(5)
    found = list(words)
    if way == 0 and "--" not in words[at]:
        del found[at]
    elif way == 1:
        found.insert(at, rng.choice(WORDS))
    elif way == 2:
        found[at] = rng.choice((*WORDS, dumped(odd(rng))[:2000]))
    else:
        found[at] = garbled_text(rng, found[at], "ab01(){}=:,.-_ '\\9e/~")
    return found


def call(words: list[str]) -> None:
    """Call the command line; a refusal ends with code 2, or with 1 if typer is interrupted."""
    try:
        main(words)
    except SystemExit as stop:
        if stop.code == 2:
            raise TensorfactError("refused") from stop
        if stop.code:
            raise
