"""The transformer: NNX modules as description, pure functions of plain dicts as execution."""
