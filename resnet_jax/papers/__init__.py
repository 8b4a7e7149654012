"""Published tables and the recipes behind them, as data."""
