"""The verbs of `ptft`, one thin file each: flags, and a call of what does the work."""
