"""Measures of behavior: what a model does with questions whose answers are known."""
