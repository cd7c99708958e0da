"""Plots, all in the style of `style`: functions that return matplotlib figures.

Used by `loop/` for runs and reports. Import it late: matplotlib takes a second to load.
"""
