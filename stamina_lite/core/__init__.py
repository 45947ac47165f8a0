"""The papers' method: masks, adapters, tokens and the hooks of a method. No disk, no diffusers, no timm."""
