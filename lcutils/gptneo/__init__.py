"""The model: GPT-Neo as the paper trains it, its loss, and its checkpoints in Hugging Face's format."""
