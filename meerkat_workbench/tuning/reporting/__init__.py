"""Turns scores into tables, charts, the report and rating sheets."""
