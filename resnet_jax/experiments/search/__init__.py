"""Looking for good values beyond a grid, with Optuna."""
