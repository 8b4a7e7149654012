"""Trained and published models: loading them, predictions, and pictures of these."""
