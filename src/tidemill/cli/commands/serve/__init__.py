"""Commands that serve models and score files."""
