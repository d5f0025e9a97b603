"""Check that the model uses its adapted parameters: `Adapter.check`, and a hook on the first forward pass."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..common.table import Table
from ..errors import AdaptError, TensorfactError, UnusedError
from ..model.example import ExampleInput, known_example, observing, outline, runs
from ..model.outputs import apart, numbers, tolerance_of
from ..model.parameters import ATTRIBUTE, base_parameters
from ..model.values import dense_values
from .slots import Slot, Switch


@dataclasses.dataclass(frozen=True)
class Effect:
    """Effect of one adapted parameter on a model's output.

    Args:
        parameter: Name of the parameter.
        moved: Largest change of the output, as a fraction of the largest output, when the increment is as large as the
            weight, or 1000 times as large if that has no effect.
        difference: Largest difference between adapted and merged output, as a fraction of the largest output.
    """

    parameter: str
    moved: float
    difference: float


@dataclasses.dataclass(frozen=True)
class Liveness:
    """Effects of all adapted parameters on a model's output; `str` gives a table.

    Args:
        effects: One entry for each parameter.
        tolerance: Largest difference at which adapted and merged model count as equal.
    """

    effects: tuple[Effect, ...]
    tolerance: float

    @property
    def dead(self) -> tuple[str, ...]:
        """The parameters that do not affect the output."""
        return tuple(effect.parameter for effect in self.effects if not effect.moved)

    @property
    def apart(self) -> tuple[str, ...]:
        """The parameters for which adapted and merged model differ."""
        return tuple(effect.parameter for effect in self.effects if not effect.difference <= self.tolerance)

    def __str__(self) -> str:
        rows = ((e.parameter, f"{e.moved:.1e}", f"{e.difference:.1e}") for e in self.effects)
        return str(Table(("parameter", "output moved by", "adapted - merged"), tuple(rows)))

    def verified(self) -> Liveness:
        """Return this object, or raise an error if a parameter fails the check.

        Raises:
            AdaptError: A parameter has no effect, or adapted and merged model differ.
        """
        if self.dead:
            raise AdaptError(
                f"check: the output does not depend on {listed(self.dead)}",
                cause="this input does not reach the parameter, or its output is multiplied by a frozen zero",
                fix="leave it out of the plan, or pass an example_input that uses it",
            )
        if self.apart:
            raise AdaptError(
                f"check: adapted and merged model differ for {listed(self.apart)}",
                expected=f"a difference of at most {self.tolerance:.1e}",
                got=f"{max(effect.difference for effect in self.effects):.1e}",
                cause="the model keeps a copy of the weight, or is not deterministic in evaluation mode",
                fix="leave it out of the plan",
            )
        return self


class Watch:
    """Forward hook that checks that every adapted parameter is used; it removes itself after the first such pass.

    Args:
        model: The adapted model.
        slots: The adapted parameters, by name.
        shared: What a copy of the model may share with it, to save time: objects that no forward pass changes.
    """

    def __init__(self, model: nn.Module, slots: Mapping[str, Slot], shared: Sequence[object]) -> None:
        self.model, self.slots, self.shared = model, slots, shared

    def start(self) -> None:
        """Run the model on its example input, or if none is known, check the first forward pass.

        If possible, a copy on the meta device runs instead: it computes nothing and leaves the model's state alone.

        Raises:
            UnusedError: The model ran on the example without using a parameter.
        """
        self.wait()
        if (example := known_example(self.model)) is None:
            return
        with observing(self.model):
            runs(lambda: self._run_copy(example))
            if self.waits:
                runs(lambda: example.run(self.model))

    def _run_copy(self, example: ExampleInput) -> None:
        """Run a copy of the model; the watch ends if that of the copy, which some copies lack, saw the pass."""
        copied = outline(self.model, *self.shared)
        watch: Watch = getattr(copied, ATTRIBUTE).watch
        waited = watch.waits
        example.on_meta().run(copied)
        if waited and not watch.waits:
            self.stop()

    def wait(self) -> None:
        """Check the first forward pass from now on."""
        self.model.register_forward_hook(self)

    @property
    def waits(self) -> bool:
        """Whether no forward pass was checked yet."""
        return any(hook is self for hook in self.model._forward_hooks.values())

    def stop(self) -> None:
        """Remove the hook."""
        hooks = self.model._forward_hooks
        for key in [key for key, hook in hooks.items() if hook is self]:
            del hooks[key]

    def __call__(self, model: nn.Module, inputs: object, output: object) -> None:
        """Check one forward pass."""
        if torch.compiler.is_compiling() or any(slot.switch.traced for slot in self.slots.values()):
            return
        if model.training and _drops_layers(model):
            return
        if unused := [name for name, slot in self.slots.items() if not slot.read]:
            raise UnusedError(
                f"the forward pass does not use {listed(unused)}, so the adapter has no effect there",
                cause="this input does not reach that part of the model, or the model skips it at random in training or"
                " keeps a copy of its weights",
                fix="leave it out of the plan, or pass check=False if other inputs use it",
            )
        self.stop()


def _drops_layers(model: nn.Module) -> bool:
    """Return whether the model's transformers configuration skips layers at random in training (layerdrop)."""
    settings = getattr(getattr(model, "config", None), "__dict__", {})
    return any(settings[name] for name in settings if "layerdrop" in name.replace("_", ""))


def listed(names: Sequence[str]) -> str:
    """Return up to three names and the number of the others, as text."""
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def measure(model: nn.Module, slots: Mapping[str, Slot], example: ExampleInput) -> Liveness:
    """Give each parameter in turn an increment as large as the weight, and measure the change of the output.

    Args:
        model: The adapted model; it is restored bit for bit.
        slots: The adapted parameters, by name.
        example: The example input.
    """
    parameters = base_parameters(model)
    effects = []
    with observing(model), _changed(slots):
        base = numbers(_ran(model, example))
        noise = apart(numbers(example.run(model)), base)
        for name, slot in slots.items():
            increment = slot.increment.dense().norm() or torch.tensor(1.0)
            whole = float((dense_values(parameters[name].detach()).to(increment.dtype).norm() or 1.0) / increment)
            for size in (1.0, 1e3):  # a small scale after the layer can hide an increment as large as the weight
                slot.scale, slot.switch = size * whole, Switch(on=True)
                adapted = numbers(example.run(model))
                merged = _merged(model, parameters[name], slot, example)
                slot.switch = Switch(on=False)
                moved = apart(adapted, base)
                if moved > 2 * noise:
                    break
            effects.append(Effect(name, moved if moved > 2 * noise else 0.0, max(apart(adapted, merged) - noise, 0.0)))
    return Liveness(tuple(effects), tolerance_of(model))


def _ran(model: nn.Module, example: ExampleInput) -> object:
    """Return the output of a model on the example input, which need not be one of its inputs."""
    try:
        return example.run(model)
    except TensorfactError:
        raise
    except Exception as error:  # the model may raise anything
        raise AdaptError(
            f"check: {type(model).__name__} does not run on the example input",
            got=f"{type(error).__name__}: {error}",
            fix="pass an input that model(input) takes: a tensor, a tuple of arguments, or a dict of keywords",
        ) from error


def _merged(model: nn.Module, parameter: nn.Parameter, slot: Slot, example: ExampleInput) -> Tensor:
    """Return the output with the effective weight in place of the parameter, in all modules that hold it."""
    merged = slot.effective(parameter)
    holders = [(m, at) for m in model.modules() for at, held in m._parameters.items() if held is parameter]
    slot.switch = Switch(on=False)
    try:
        for module, at in holders:
            module._parameters[at] = merged  # type: ignore[assignment]  # no Parameter, as in torch.func.functional_call
        return numbers(example.run(model))
    finally:
        for module, at in holders:
            module._parameters[at] = parameter


@contextlib.contextmanager
def _changed(slots: Mapping[str, Slot]) -> Iterator[None]:
    """Set all cores to random values and switch every slot off; restore both on exit."""
    kept = [(slot, slot.scale, slot.switch) for slot in slots.values()]
    cores = {id(core): core for slot in slots.values() for core in slot.increment.factors.tensors()}
    values = {key: core.detach().clone() for key, core in cores.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        for core in cores.values():
            core.copy_(torch.randn(core.shape, generator=generator, device="cpu"))
        for slot in slots.values():
            slot.switch = Switch(on=False)
        yield
    finally:
        for key, core in cores.items():
            core.copy_(values[key])
        for slot, scale, switch in kept:
            slot.scale, slot.switch = scale, switch
