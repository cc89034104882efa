"""Data that a model makes of its own answers: revised by principles, and in pairs of which one is better."""
