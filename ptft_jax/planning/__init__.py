"""What a training step costs on machines that are not there: compiled ahead of time, and never run."""
