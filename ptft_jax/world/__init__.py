"""The generated world: people and facts whose truth is known, in documents that are a pure function of (seed, split,
stream, index)."""
