"""Workbench for fine-tuning and evaluating medical language models. Shared capabilities, and one room for each task."""
