"""Judged queries from public data sets and plain tables, a module for each form."""
