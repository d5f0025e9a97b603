"""Run the parts of peft's own test suite that apply to a method, on tensorfact: `make peft-suite PEFT=CHECKOUT`.

peft's tests are not in its wheel: CHECKOUT is a clone of its repository, at about the version that is installed. Its
files are run as they are; only the lists of methods that they are parametrized over are replaced by tensorfact's.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tensorfact import Group, Rule, TensorizationPlan
from tensorfact.integrations.peft import TensorfactConfig, register

FILE = "tests/test_custom_models.py"

PATTERNS = {
    ("EmbConv1D", "conv1d"): "in out",
    ("EmbConv1D", "emb"): "in out",
    **dict.fromkeys([("Conv1d", "conv1d"), ("Conv1dBigger", "conv1d")], "out in k"),
    **dict.fromkeys(
        [(model, "conv2d") for model in ("Conv2d", "Conv2d1x1", "Conv2d2", "Conv2dGroups", "Conv2dGroups2")],
        "out in kh kw",
    ),
    ("Conv3d", "conv3d"): "out in kd kh kw",
    ("MlpUsingParameters", "lin0"): "in out",
    ("MlpUsingParameters", "lin1"): "in out",
}
"""The dimensions of the weights of peft's models that are not (out, in)."""


@dataclasses.dataclass
class SuiteConfig(TensorfactConfig):
    """A configuration that names modules as peft's tests do, in place of a plan; each is a tensor of its own."""

    target_modules: dataclasses.InitVar[Any] = None
    model: dataclasses.InitVar[str] = ""

    def __post_init__(self, target_modules: Any, model: str) -> None:
        if target_modules is not None:
            names = [target_modules] if isinstance(target_modules, str) else target_modules
            self.plan = TensorizationPlan(tuple(_group(name, PATTERNS.get((model, name), "out in")) for name in names))
        super().__post_init__()


def _group(name: str, pattern: str) -> Group:
    return Group(name.replace(".", "_"), pattern, (Rule(f"{name}.weight", pattern),))


_ALONE = "one layer stands for all adapted layers, which keep their classes, attributes and parameters"
_NEWER = "peft 0.21 lets a second adapter train that was loaded with is_trainable=True; LoRA fails this test too"

APART = {
    "test_in_features_out_features_exposed": _ALONE,
    "test_set_adapter_non_overlapping_modules": _ALONE,
    "test_set_adapter_non_overlapping_modules_to_save": _ALONE,
    "test_set_requires_grad": _ALONE,
    "test_save_load_roundtrip_fsdp_wrapped": "the first version of FSDP replaces the weights of adapted layers",
    "test_loading_model_requires_grad_set_correctly[True": _NEWER,
    "test_loading_model_with_modules_to_save_requires_grad_set_correctly[True": _NEWER,
}
"""Tests that do not apply, by the beginning of their names, with the reason."""

MODELS: dict[str, list[list[str]]] = {
    "MLP": [["lin0"], ["lin1"], ["lin0", "lin1"]],
    "EmbConv1D": [["conv1d"], ["emb"], ["emb", "conv1d"]],
    "Conv1d": [["conv1d"]],
    "Conv1dBigger": [["conv1d"], ["conv1d", "lin0"]],
    "Conv2d": [["conv2d"], ["conv2d", "lin0"]],
    "Conv2d1x1": [["conv2d"]],
    "Conv2d2": [["conv2d"], ["conv2d", "lin0"]],
    "Conv2dGroups": [["conv2d"]],
    "Conv2dGroups2": [["conv2d"]],
    "Conv3d": [["conv3d"], ["conv3d", "lin0"]],
    "MLP2": [["lin0"]],
    "MlpUsingParameters": [["lin0"], ["lin0", "lin1"]],
}
"""The modules of peft's models that are adapted."""

FORMATS = ("tt:rank=1", "cp:rank=1")


def cases() -> list[tuple[str, str, type[SuiteConfig], dict[str, Any]]]:
    """Return the rows in place of `TEST_CASES`: a name, a model, a configuration and its options."""
    rows = []
    for model, every in MODELS.items():
        for modules in every:
            for format in FORMATS:
                options: dict[str, Any] = {"target_modules": modules, "model": model, "format": format}
                if (
                    model == "EmbConv1D"
                ):  # its gradients are tiny; peft's tests raise the learning rate for some methods
                    options["scale"] = 100.0
                rows.append((f"{model} {'+'.join(modules)} {format}", model, SuiteConfig, options))
    saved = {"target_modules": ["lin0"], "modules_to_save": ["lin1"], "format": "tt:rank=2", "dropout": 0.1}
    return [*rows, ("MLP lin0, lin1 saved", "MLP", SuiteConfig, saved)]


def several() -> list[tuple[str, str, type[SuiteConfig], dict[str, Any], dict[str, Any]]]:
    """Return the rows in place of `MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES`: two configurations of one model."""
    first, other = (
        {"target_modules": [name], "format": "tt:rank=2", "init_weights": False} for name in ("lin0", "lin1")
    )
    return [
        ("tensorfact Same", "tensorfact", SuiteConfig, first, {**first, "format": "cp:rank=3"}),
        ("tensorfact Different", "tensorfact", SuiteConfig, first, other),
    ]


def pytest_collection(session: pytest.Session) -> None:
    """Replace the lists that peft's tests are parametrized over, before they are collected."""
    register()
    module = importlib.import_module("tests.test_custom_models")
    module.TEST_CASES[:] = cases()
    module.ALL_PEFT_CONFIG_CLASSES[:] = [SuiteConfig]
    module.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = several()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of single methods."""
    ours = [item for item in items if SuiteConfig in getattr(getattr(item, "callspec", None), "params", {}).values()]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
    for item in ours:
        for name, reason in APART.items():
            if item.name.startswith(name if "[" in name else f"{name}["):
                item.add_marker(pytest.mark.skip(reason=reason))


def main(checkout: str, *options: str) -> int:
    """Run peft's tests of custom models, those that are parametrized over methods.

    Args:
        checkout: A clone of peft's repository.
        options: Options of pytest.
    """
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "peft_suite", FILE, *options]
    return subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
