"""After training: what finished runs learned, interpolated, averaged, added and taken away in their parameters."""
