"""Meshes, shardings, and the one place where steps are compiled."""
