"""Scores to recommendations: which specialties get more training records."""
