"""Concepts of a vocabulary and their mentions in texts: what links one to the other, for any task."""
