"""Experiments: each file asks one question as a graph of runs with a report."""
