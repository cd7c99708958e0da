"""Tables: loading, checking, typing and splitting a project's rows, and describing new tables.

Pure functions on DataFrames. Used by `loop/` and the other folders of `steps/`; `prepare` is the
entry. Inference of a model's signature is here too.
"""
