"""What a trained network does, measured: pure functions of a model, its variables and images."""
