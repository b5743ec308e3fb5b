"""Scores to tables, charts, the report and rating sheets."""
