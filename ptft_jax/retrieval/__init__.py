"""Passages that are looked up: corpora, indexes of them, questions with what was found before them, and nearest neighbors of states."""
