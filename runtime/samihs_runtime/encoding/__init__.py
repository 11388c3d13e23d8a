"""From slices to embeddings: frames, the encoder, and caches in memory and on disk."""
