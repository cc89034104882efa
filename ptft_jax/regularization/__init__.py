"""What holds a run near its start: pulls and penalties on parameters, and on what the model predicts."""
