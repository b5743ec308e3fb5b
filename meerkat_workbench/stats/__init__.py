"""Intervals, tests, shrinkage and rater agreement. Knows no task."""
