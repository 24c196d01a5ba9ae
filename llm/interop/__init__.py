"""Weights that travel: Hugging Face folders out and in, GGUF files out."""
