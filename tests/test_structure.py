"""The house: rooms in their order, one owner a library, a narrow front door, and an import that changes nothing."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tensorfact

ROOT = Path(tensorfact.__file__).parent

ROOMS = (
    "errors",
    "common",
    "network",
    "formats",
    "model",
    "plan",
    "drawing",
    "storage",
    "algebra",
    "lora",
    "adapters",
    "optim",
    "recipes",
    "testing",
    "integrations",
    "lab",
    "cli",
)
"""The rooms from the ground up: a module imports from its own room and from those above it in this list."""

ROOF = {"__init__", "__main__"}
"""The modules that may import any room, and that no room imports."""

OWNERS = {
    "opt_einsum": "network",
    "onnx": "lab.dinov2",
    "tensorly": "formats",
    "safetensors": "storage",
    "huggingface_hub": "storage.hub",
    "hypothesis": "testing",
    "peft": "integrations.peft integrations.peft_layers lab.baselines.peers",
    "timm": "lab",
    "torchvision": "lab",
    "PIL": "lab",
    "sklearn": "lab.data",
    "datasets": "lab.data",
    "accelerate": "integrations.accelerate lab.training",
    "tqdm": "lab.training",
    "filelock": "lab.locks",
    "optuna": "lab.sweep",
    "scipy": "lab.report",
    "ray": "lab.sweep",
    "lightning": "integrations.lightning",
    "matplotlib": "lab.plots",
    "transformers": "lab.models",
    "rich": "cli",
    "typer": "cli",
}
"""The one room, or part of it, that imports a library; a trainer has one in `integrations` and may have one below."""

CORE = {"torch", "numpy", "opt_einsum", "tensorly", "safetensors", "huggingface_hub"}
"""What the rooms above the lab import, the last one on first use; `testing` imports hypothesis and pytest too."""

LARGE = {"sweep_command", "compare", "timm_dataset"}
"""Functions whose signatures alone are long: 20 options of a command, and all options of a public function."""


# ------------------------------------------------------------------------------------------------------------- modules


@functools.cache
def modules() -> dict[str, Path]:
    """Return the package's files by their dotted names below `tensorfact`."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def room(name: str) -> str:
    return name.split(".")[0]


def imported_names(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield what some nodes of a module import, as absolute names: the package's own as `tensorfact.x.y`."""
    package = ["tensorfact", *modules()[name].relative_to(ROOT).parent.parts]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Return what a module imports anywhere in it: in functions and for type checkers too."""
    return frozenset(imported_names(name, ast.walk(tree(name))))


def libraries(name: str) -> set[str]:
    """Return the libraries that a module imports, the standard library apart."""
    found = {imported.split(".")[0] for imported in imports(name)}
    return found - set(sys.stdlib_module_names) - {"tensorfact"}


@functools.cache
def inner(name: str) -> frozenset[str]:
    """Return the package's modules that a module imports."""
    known, found = modules(), set()
    for imported in imports(name):
        parts = imported.split(".")
        if parts[0] == "tensorfact":
            candidates = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.add(next((candidate for candidate in candidates if candidate in known), "__init__"))
    return frozenset(found - {name})


INSIDE = sorted(set(modules()) - ROOF)


# --------------------------------------------------------------------------------------------------------------- rooms


def test_the_folder_shows_the_rooms_and_little_else() -> None:
    shown = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    rooms = {name if (ROOT / name).is_dir() else f"{name}.py" for name in ROOMS}
    assert shown == {*rooms, *(f"{name}.py" for name in ROOF), "py.typed"}
    assert len(shown) <= 20


@pytest.mark.parametrize("name", INSIDE)
def test_imports_go_up_the_list_of_rooms(name: str) -> None:
    for imported in inner(name):
        assert imported not in ROOF, f"{name} imports the package's root"
        assert ROOMS.index(room(imported)) <= ROOMS.index(room(name)), f"{name} imports {imported}"


def test_there_is_no_circle() -> None:
    tuple(graphlib.TopologicalSorter({name: inner(name) for name in INSIDE}).static_order())


@pytest.mark.parametrize("library", OWNERS)
def test_one_room_owns_each_library(library: str) -> None:
    importers = {name for name in modules() if library in libraries(name)}
    assert importers
    owners = OWNERS[library].split()
    assert {n for n in importers if not any(n == owner or n.startswith(f"{owner}.") for owner in owners)} == set()


def test_every_other_library_has_an_owner() -> None:
    found = set().union(*(libraries(name) for name in modules()))
    assert found - set(OWNERS) <= {"torch", "numpy", "pytest"}


@pytest.mark.parametrize(
    "name", [name for name in INSIDE if room(name) not in ("testing", "integrations", "lab", "cli")]
)
def test_the_core_needs_five_libraries(name: str) -> None:
    assert libraries(name) <= CORE


# --------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_stays_small_and_says_what_it_is_for(name: str) -> None:
    assert len(modules()[name].read_text().splitlines()) <= 400
    text = ast.get_docstring(tree(name))
    assert text
    assert "\n\n" in text or "\n" not in text, "the first line is a paragraph of its own"


@pytest.mark.parametrize("name", INSIDE)
def test_functions_stay_short(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef) and node.name not in LARGE:
            start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
            assert (node.end_lineno or 0) - start <= 50, f"{name}.{node.name}"


def test_a_new_format_is_short() -> None:
    """One file, and one file of tests by the conformance kit."""
    assert len(modules()["formats.block_term"].read_text().splitlines()) <= 120
    [tests] = Path(__file__).parent.rglob("test_block_term.py")
    assert len(tests.read_text().splitlines()) <= 35


# --------------------------------------------------------------------------------------------------------------- tests

TESTS = Path(__file__).parent

EVERY_FORMAT = "tests/testing/test_format_laws.py: every registered format is held against the laws"
EVERY_FAMILY = "tests/plan/families/test_known.py: every family is held against a model of its own"
EVERY_FAULT = "tests/testing/test_format_laws.py: for every law there is a format that breaks it"

UNMIRRORED = {
    "common.aliases": "tests/test_structure.py: names of types, which hold no code",
    **{
        f"adapters.increments.{name}": "tests/adapters/increments/test_increment.py: every mode, on every kind of layer"
        for name in ("contracted_input", "execution", "halves", "narrow_products")
    },
    **{
        f"adapters.banks.{name}": "tests/adapters/banks/test_bank.py: every part of a bank, by what its tasks compute"
        for name in (
            "choice",
            "factors",
            "heads",
            "alone",
            "gathered",
            "increment",
            "links",
            "membership",
            "mixing",
            "products",
        )
    },
    "adapters.groups": "tests/adapters/test_adapter.py: learning rates of parameter groups",
    **{
        f"lab.data.real.{name}": "tests/lab/data/real/test_lists.py: every real task, by its list"
        for name in ("digits", "fashion", "mnist", "pool", "sprites")
    },
    "lab.fetched": "tests/lab/test_fetching.py: what can be fetched, and names that cannot",
    "optim.preconditioner": "tests/optim/test_preconditioned.py: Gram matrices and their inverses, by what they train",
    "adapters.options": "tests/adapters/test_build.py: the options of adapt, right and wrong",
    "adapters.snapshot": "tests/storage/test_state.py: what a saved adapter holds",
    "adapters.slots": "tests/adapters/test_layers.py: adapted parameters of every kind of module",
    "integrations.resuming": "tests/integrations/test_transformers.py: what a run resumes from, and what is refused",
    "storage.left_out": "tests/storage/test_state.py: what a file leaves out, and rebuilds",
    "storage.bank_rows": "tests/adapters/banks/test_joining.py: which adapters are tasks of one bank",
    "storage.bank_folder": "tests/adapters/banks/test_stored.py: banks on disk, right and damaged",
    "algebra.joining": "tests/adapters/banks/test_joining.py: adapters with cores in common, and the error of each",
    "algebra.changes": "tests/algebra/test_conversion.py: every change that is reported there is one of these",
    "algebra.term": "tests/algebra/test_recompression.py: sums of terms, against the dense tensors",
    **{
        f"formats.{name}": EVERY_FORMAT
        for name in (
            *("gates", "hadamard", "khatri_rao", "kronecker", "monarch"),
            *("partial_tucker", "per_slice", "reshaped_tucker", "tensor_ring", "tt_matrix", "tucker"),
        )
    },
    "cli.examples": "tests/cli/test_files.py: the list of formats, with an example of each",
    "lab.baselines.prompts": "tests/lab/baselines/test_method.py: prompts are two of the methods tested there",
    "lab.methods": "tests/lab/sweep/test_check.py: names and options of methods, right and wrong",
    "lab.report.comparison": "tests/lab/test_comparison.py: its files agree with the comparison",
    "lab.report.names": "tests/lab/report/test_summary.py: the ranks and kinds that a summary reads off names",
    "lab.report.pictures": "tests/lab/report/test_files.py: pictures are written with the other files",
    "lab.report.terminal": "tests/cli/test_sweeps.py: the tables that the command prints",
    "lab.sweep.execute": "tests/lab/sweep/test_run.py: runs, from their specs to their outcomes",
    "lab.training.engine": "tests/lab/training/test_loop.py: every run without an accelerator goes through it",
    "plan.families.concrete": "tests/plan/families/test_by_shape.py: the smallest set of rules, on any model",
    **{
        f"plan.families.{name}": EVERY_FAMILY
        for name in ("decoders", "encoder_decoders", "encoders", "family", "parts", "stages", "vision")
    },
    **{f"testing.{name}": EVERY_FAULT for name in ("decomposition_laws", "network_laws", "smallest_model", "subject")},
}
"""Modules without a file of tests of their own, and the file that tests them."""

ACROSS = {
    "arguments": "flags and numbers of all public functions",
    "unusual_models": "models on the meta device, offloaded, quantised, pruned, parametrized, tied again, under peft",
    "names": "no two public classes share a name",
    "cuda": "the laws, training, banks and files on a GPU",
    "compile": "torch.compile on whole models, with adapters of every format",
    "distributed": "several processes: adapters, training and what is stored",
    "export": "adapted and merged models in torch.export, ONNX, and the files of other libraries",
    "fuzz": "every reader of the package, on damaged input",
    "kernels": "how many kernels a training step launches, for each format",
    "laws": "the laws of the design, each over plans, models, formats and dtypes",
    "mutants": "the tool that changes the package in one point, to see whether a test fails",
    "results_page": "the documentation's page of results and the runs beside it",
    "routes": "the routes on members of many families, under everything torch does to a model",
    "site": "the built documentation in a browser",
    "structure": "the house itself",
    "timm": "real models of timm from plan to file",
    "torch_modules": "modules of torch that read their weights in ways of their own",
}
"""Files of tests that belong to no room, each with what it is that crosses them."""


def mirror_of(name: str) -> Path:
    """Return where the tests of a module are, or would be."""
    *rooms, last = name.split(".")
    return TESTS.joinpath(*rooms, f"test_{last}.py")


MIRRORED = [name for name in INSIDE if modules()[name].name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("name", MIRRORED)
def test_the_tests_of_a_module_are_found_without_a_search(name: str) -> None:
    if name in UNMIRRORED:
        assert not mirror_of(name).exists(), f"{name} has tests of its own now: take it out of UNMIRRORED"
    else:
        assert mirror_of(name).exists(), f"{name}: expected {mirror_of(name).relative_to(TESTS.parent)}"


def test_what_has_no_tests_of_its_own_is_tested_elsewhere() -> None:
    assert set(UNMIRRORED) <= set(MIRRORED)
    for name, reason in UNMIRRORED.items():
        path, words = reason.split(": ")
        assert (TESTS.parent / path).is_file(), f"{name}: {path}"
        assert words


def test_every_file_of_tests_mirrors_a_module_or_crosses_rooms() -> None:
    across = {TESTS / f"test_{name}.py" for name in ACROSS}
    found = set(TESTS.rglob("test_*.py"))
    assert across <= found
    assert found - across == {mirror_of(name) for name in MIRRORED} - {mirror_of(name) for name in UNMIRRORED}


# ---------------------------------------------------------------------------------------------------------- front door


def test_the_front_door_is_narrow() -> None:
    assert len(tensorfact.__all__) <= 37
    assert len(dir(tensorfact)) <= 40
    assert set(tensorfact.__all__) <= set(dir(tensorfact))
    for name in dir(tensorfact):
        assert getattr(tensorfact, name).__doc__, name


def test_what_loads_later_is_what_it_would_have_been() -> None:
    assert tensorfact.fit is importlib.import_module("tensorfact.lab").fit
    assert tensorfact.compare is importlib.import_module("tensorfact.lab").compare
    assert tensorfact.drawing is importlib.import_module("tensorfact.drawing")
    with pytest.raises(AttributeError, match="no attribute 'nano'"):
        tensorfact.nano  # type: ignore[attr-defined]  # noqa: B018


def test_dir_of_the_recipes_lists_recipes() -> None:
    recipes = tensorfact.recipes
    assert dir(recipes) == sorted(recipes.RECIPES)
    assert all(getattr(recipes, name) is recipe for name, recipe in recipes.RECIPES.items())


@pytest.mark.parametrize("name", [name for name in INSIDE if any(other.startswith(f"{name}.") for other in modules())])
def test_no_function_hides_a_module_beside_it(name: str) -> None:
    package = importlib.import_module(f"tensorfact.{name}")
    below = [other.removeprefix(f"{name}.") for other in modules() if other.startswith(f"{name}.")]
    for module in (other for other in below if "." not in other and other != "__main__"):
        imported = importlib.import_module(f"tensorfact.{name}.{module}")
        assert getattr(package, module) is imported
        assert isinstance(imported, ModuleType)


def test_a_package_exports_what_it_says() -> None:
    for name, path in modules().items():
        if path.name != "__init__.py" or name in ROOF:
            continue
        package = importlib.import_module(f"tensorfact.{name}")
        assert all(hasattr(package, word) for word in getattr(package, "__all__", ()))


# ------------------------------------------------------------------------------------------------------------- imports

OBSERVE = """
import json, sys
import numpy, opt_einsum, safetensors.torch, tensorly, torch
observe = lambda: {
    "backend": tensorly.get_backend(),
    "dtype": str(torch.get_default_dtype()),
    "device": str(torch.get_default_device()),
    "threads": torch.get_num_threads(),
    "interop": torch.get_num_interop_threads(),
    "grad": torch.is_grad_enabled(),
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "precision": torch.get_float32_matmul_precision(),
    "random": torch.get_rng_state().sum().item(),
}
torch.manual_seed(0)
before, loaded = observe(), set(sys.modules)
import tensorfact
from tensorfact import *
print(json.dumps([before, observe(), sorted({name.split(".")[0] for name in set(sys.modules) - loaded})]))
"""


def in_a_fresh_process(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert not done.stderr
    return done.stdout


def test_importing_changes_nothing_and_loads_nothing_beside_the_core() -> None:
    before, after, loaded = json.loads(in_a_fresh_process(OBSERVE))
    assert after == before
    assert set(loaded) - set(sys.stdlib_module_names) <= {"tensorfact"}


def test_importing_loads_no_library_of_the_lab() -> None:
    code = "import sys; from tensorfact import *; print([name for name in sys.modules if '.' not in name])"
    loaded = set(ast.literal_eval(in_a_fresh_process(code)))
    assert not loaded & {*OWNERS, "pytest", "peft"} - CORE - {"tqdm", "scipy"}, (
        "torch.hub imports tqdm, and tensorly scipy"
    )
    assert not loaded & {"triton", "sympy"}, "torch's compiler was loaded"


@pytest.mark.parametrize("module", ["tensorfact", "tensorfact.cli", "tensorfact.errors"])
def test_what_the_help_needs_loads_no_torch(module: str) -> None:
    loaded = in_a_fresh_process(f"import sys, {module}; print([*sys.modules])")
    assert not {"torch", "numpy", "timm"} & set(ast.literal_eval(loaded))


def test_a_type_checker_sees_what_is_imported_on_first_use() -> None:
    source = ast.parse((ROOT / "__init__.py").read_text())
    [block] = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.asname: node.module or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == tensorfact._HOMES


WITHOUT = """
import pydoc, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hypothesis", "timm", "torchvision", "matplotlib", "rich", "typer", "sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import tensorfact
from tensorfact import *

assert adapt is tensorfact.adapt
assert pydoc.render_doc(tensorfact)
for name in ("testing", "lab", "fit"):
    try:
        getattr(tensorfact, name)
    except AttributeError as error:
        print(error)
"""


def test_what_cannot_be_imported_is_an_attribute_that_is_missing() -> None:
    printed = in_a_fresh_process(WITHOUT)
    assert "tensorfact.testing cannot be imported: No module named 'hypothesis'." in printed
    assert "pip install 'tensorfact[testing]'" in printed
    assert "tensorfact.fit cannot be imported: No module named" in printed


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").exists()
