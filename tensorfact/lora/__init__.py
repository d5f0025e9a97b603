"""LoRA files of peft and LyCORIS: `from_lora` reads them, `to_lora` writes peft's."""

from .reading import from_lora
from .writing import LoraFolder, to_lora

__all__ = ["LoraFolder", "from_lora", "to_lora"]
