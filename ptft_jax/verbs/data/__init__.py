"""The verbs of `ptft data`."""
