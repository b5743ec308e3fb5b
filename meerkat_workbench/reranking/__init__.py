"""The reranking task: judged queries are read and split, a cross-encoder is trained, measured, exported and served."""
