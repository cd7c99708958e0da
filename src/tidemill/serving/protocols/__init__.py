"""The serving protocols: native, MLflow, Open Inference Protocol v2, and the status routes.

Each module has `protocol(models)`, which `serving/service.py` calls; `*_schema.py` is its OpenAPI
part. Request bodies become rows in `serving/codec`.
"""
