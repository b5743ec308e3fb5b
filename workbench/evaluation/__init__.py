"""Answers to scores, statistics, charts and recommendations."""
