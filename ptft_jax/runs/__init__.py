"""Runs on disk: who owns a workdir, which checkpoints stay, and whether their files are those that were written."""
