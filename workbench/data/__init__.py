"""Specialty files to holdout, eval, train and pool. Nothing here imports torch."""
