"""Specialty files to holdout, eval, train and pool. Imports no torch."""
