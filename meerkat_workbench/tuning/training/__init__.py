"""Train and eval records to a QLoRA adapter."""
