"""What a run writes while it trains: metrics, progress on the console, trackers."""
