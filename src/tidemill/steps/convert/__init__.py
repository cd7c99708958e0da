"""Conversion of a fitted model to ONNX: one module of converters for each family of estimators.

`model.convert` is the entry, called by `steps/export`. To support another class, register a
converter for it (see `dispatch`) in a module that `model` imports.
"""
