"""Tools that a model may call while it answers: their answers become part of what it reads."""
