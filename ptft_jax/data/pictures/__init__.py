"""Images as records: where they come from, how bytes become pixels, and how pixels are varied in training."""
