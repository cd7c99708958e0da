"""From a fitted model to a bundle: compilation, parity checks, and the bundle's files.

`bundle_writer` is the entry for Tidemill's own models. The `external_*` modules adapt models that
other tools registered, for `loop/sync`. The conversion to ONNX itself is in `steps/convert`.
"""
