"""Baselines to compare adapters with: linear probe, full fine-tuning, BitFit, bottlenecks, prompts, NOAH and peft's."""

import functools
from collections.abc import Callable

from .added import Added
from .bottleneck import AdaptFormer, BottleneckAdapters
from .method import Method, Trained
from .noah import Space, Subnet, Supernet
from .peers import KINDS, PeftAttached, PeftMethod, peft_method
from .prompts import PromptTuning
from .published import PROMPT_LENGTHS, prompt_length
from .search import BUDGET, check_search, search_subnet
from .weights import BitFit, FullFineTuning, LinearProbe, TrainedWeights

BASELINES: dict[str, Callable[..., Method]] = {
    "linear": LinearProbe,
    "full": FullFineTuning,
    "bitfit": BitFit,
    "adapter": BottleneckAdapters,
    "adaptformer": AdaptFormer,
    "vpt-shallow": functools.partial(PromptTuning, deep=False),
    "vpt-deep": functools.partial(PromptTuning, deep=True),
    "noah-subnet": Subnet,
    **{f"peft-{name}": functools.partial(peft_method, name) for name in KINDS},
}
"""Baselines by name. Their options are numbers, flags or, for `noah-subnet`, sequences of numbers.

Those that begin with `peft-` are peft's own implementations, with peft's names of the options."""

__all__ = [
    "BASELINES",
    "BUDGET",
    "PROMPT_LENGTHS",
    "AdaptFormer",
    "Added",
    "BitFit",
    "BottleneckAdapters",
    "FullFineTuning",
    "LinearProbe",
    "Method",
    "PeftAttached",
    "PeftMethod",
    "PromptTuning",
    "Space",
    "Subnet",
    "Supernet",
    "Trained",
    "TrainedWeights",
    "check_search",
    "peft_method",
    "prompt_length",
    "search_subnet",
]
