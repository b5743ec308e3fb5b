"""Answers to metric scores and answer checks."""
