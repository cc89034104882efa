"""Which runs there are below a folder, and what is known of each."""
