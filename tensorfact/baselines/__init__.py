"""What adapters are compared with: the head alone, biases, everything, added modules, prompts."""

from .added import Added
from .bottleneck import Adapters, AdaptFormer
from .method import Method, Trained
from .prompts import PromptTuning
from .weights import BitFit, FullFineTuning, LinearProbe, Weights

__all__ = [
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
