"""C-LoRA, STAMINA, their ablations and everything they are compared with."""
