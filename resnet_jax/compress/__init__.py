"""Smaller and simpler networks: transforms of (model, variables) to (model, variables)."""
