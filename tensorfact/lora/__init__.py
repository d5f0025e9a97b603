"""LoRA in and out: the folders and files of peft and LyCORIS."""

from .reading import from_lora
from .writing import LoraFolder, to_lora

__all__ = ["LoraFolder", "from_lora", "to_lora"]
