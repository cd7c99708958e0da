"""Retraining policies on streams whose drift is known."""
