"""Parameters as nested dicts: path rules, partition into trainable and frozen, checksums."""
