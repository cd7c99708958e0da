"""Commands that train, list and promote versions."""
