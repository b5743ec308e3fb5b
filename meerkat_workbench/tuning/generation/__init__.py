"""Answers of the base model, the tuned model and others."""
