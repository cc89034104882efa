"""Commands of ptft as jobs on machines elsewhere, by the tools of those who own them."""
