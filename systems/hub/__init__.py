"""Trained systems on the Hugging Face hub: safetensors and JSON, pinned to a revision and checked by checksum."""
