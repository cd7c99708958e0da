"""Serving benchmark: the same two models served by Tidemill and by every peer, in one run."""
