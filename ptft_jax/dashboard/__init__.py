"""A folder of runs, looked at live in a browser while they train."""
