"""Serving, measured: the same two models behind Tidemill and behind every peer, in one run."""
