"""Training of cross-encoders by sentence-transformers, for reranking and linking."""
