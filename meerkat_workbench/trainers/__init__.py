"""Parts for any Hugging Face trainer: atomic checkpoints, best checkpoint, resumable sampler, token budget."""
