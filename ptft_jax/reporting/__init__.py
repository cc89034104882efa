"""Progress, metrics on disk, plots and reports."""
