"""Experiments: graphs of runs in one folder."""
