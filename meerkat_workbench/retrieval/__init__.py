"""Retrieval that tasks share: documents, first stages, indexes, cross-encoder scores, fusion, ranking measures."""
