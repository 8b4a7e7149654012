"""Load trained and published models, predict with them, and draw the predictions."""
