"""The papers' tables, run again: recipes, scales, verdicts."""
