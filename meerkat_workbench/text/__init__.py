"""Text normalisation, near-duplicates, leakage, benchmark contamination, and quantities with units. Independent of any task."""
