"""Retraining policies on streams with known drift."""
