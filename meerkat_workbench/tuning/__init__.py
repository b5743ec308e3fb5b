"""The task of progressive QLoRA fine-tuning and evaluation."""
