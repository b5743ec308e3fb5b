"""Text normalisation, near-duplicates, leakage, benchmark contamination, and quantities with units. Knows no task."""
