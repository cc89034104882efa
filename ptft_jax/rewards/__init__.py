"""What says how good a generated answer is: verifiers, for evaluation and as rewards."""
