"""Example projects, one short file each: `tidemill train --project gallery:iris`.

`tidemill init NAME --from iris` creates a copy to start from.
"""
