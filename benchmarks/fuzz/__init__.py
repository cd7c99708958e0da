"""Sends random and mutated requests to a running server and fails on any 5xx."""
