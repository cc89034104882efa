"""From text to exact batches."""
