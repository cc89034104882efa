"""Where nodes are carried out."""
