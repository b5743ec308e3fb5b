"""Intervals, tests, shrinkage and rater agreement; independent of any task."""
