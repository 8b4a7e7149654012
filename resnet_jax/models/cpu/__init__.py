"""What XLA for a CPU runs faster when it is written differently."""
