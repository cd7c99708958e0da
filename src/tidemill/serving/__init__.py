"""The data plane: serves predictions from the bundles on the shelf, without database or MLflow.

`http/` receives requests, `protocols/` defines their routes, `codec/` parses and encodes them, and
`model/` runs the models of `shelf/`; `journal/` records predictions. `service.py` wires the parts.
"""
