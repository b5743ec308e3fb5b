"""Turns scores into recommendations: which specialties get more training records."""
