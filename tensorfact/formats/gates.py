"""The format of a circuit of gates: QuanTA."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from ..network import Core, Mode, Network
from .common import in_pairs, mode_sizes
from .per_slice import PerSlice


@dataclasses.dataclass(frozen=True)
class Gates(PerSlice):
    """A circuit of gates for every slice: one gate per pair of axes, applied one after the other.

    The plan splits inputs and outputs into the same number of modes: `plan.split("in", {"a": 16, "b": 8, "c": 6})`.
    Every axis keeps its input size until its last gate gives it its output size. No gate starts at zero: to start from
    the base model, pass `subtract_start=True` to `adapt`.

    Raises:
        FormatError: There are fewer than two inputs, or the numbers of inputs and outputs differ.

    Source: QuanTA: Z. Chen et al., NeurIPS 2024.

    Examples:
        >>> from tensorfact.formats import Gates
        >>> from tensorfact.network import Mode
        >>> inputs = (Mode("a", 16, "in"), Mode("b", 8, "in"), Mode("c", 6, "in"))
        >>> outputs = (Mode("g", 16, "out"), Mode("h", 8, "out"), Mode("i", 6, "out"))
        >>> print(Gates().network((*outputs, *inputs)))
        T1[_1b _1c b c] T2[_2a i a _1c] T3[g h _2a _1b] -> g h i a b c
        >>> Gates().num_parameters((*outputs, *inputs))
        27904
    """

    def slice_network(self, modes: Sequence[Mode]) -> Network:
        """Return the network of gates, from the last pair of axes to the first."""
        inputs, outputs = in_pairs(modes, str(self))
        pairs = [pair[::-1] for pair in itertools.combinations(range(len(inputs) - 1, -1, -1), 2)]
        sizes, wires, cores = mode_sizes(modes), [mode.name for mode in inputs], []
        for number, pair in enumerate(pairs, 1):
            before = [wires[axis] for axis in pair]
            for axis in pair:
                if any(axis in later for later in pairs[number:]):
                    wires[axis] = f"_{number}{inputs[axis].name}"
                    sizes[wires[axis]] = inputs[axis].size
                else:
                    wires[axis] = outputs[axis].name
            cores.append(Core(f"T{number}", (*(wires[axis] for axis in pair), *before)))
        return Network(tuple(cores), tuple(mode.name for mode in modes), sizes)
