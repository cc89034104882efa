"""Services that track experiments (`config.log.trackers`): one file each, and a line in `ptft_jax.config.trackers`."""
