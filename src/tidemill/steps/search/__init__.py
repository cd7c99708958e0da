"""Hyperparameter search: parameters, settings to try, fitting, and pruning of trials.

`search` is the entry: it opens a grid or an Optuna search. `loop/training` runs the trials.
"""
