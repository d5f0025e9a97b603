"""What adapters are compared with: the head alone, biases, everything, added modules, prompts."""

from collections.abc import Callable

from .added import Added
from .bottleneck import Adapters, AdaptFormer
from .method import Method, Trained
from .prompts import PromptTuning
from .weights import BitFit, FullFineTuning, LinearProbe, Weights

BASELINES: dict[str, Callable[..., Method]] = {
    "linear": LinearProbe,
    "full": FullFineTuning,
    "bitfit": BitFit,
    "adapter": Adapters,
    "adaptformer": AdaptFormer,
    "vpt-shallow": lambda length=10: PromptTuning(length),
    "vpt-deep": lambda length=10: PromptTuning(length, deep=True),
}
"""All of them by name."""

__all__ = [
    "BASELINES",
    "AdaptFormer",
    "Adapters",
    "Added",
    "BitFit",
    "FullFineTuning",
    "LinearProbe",
    "Method",
    "PromptTuning",
    "Trained",
    "Weights",
]
