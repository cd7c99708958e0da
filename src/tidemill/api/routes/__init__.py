"""The routes, one module per subject; each calls a use case in `loop/` or reads `stores/`."""
