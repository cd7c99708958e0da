"""The projects that come with Tidemill, each one short file: run one as `--project gallery:iris`.

`tidemill init NAME --from iris` writes a copy of one to start from.
"""
