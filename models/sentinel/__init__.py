"""The recipe of the sentinel: from public data to the two files that the product loads.

Not part of the installed product. `python -m models.sentinel STAGE --data DIR --work DIR` runs one
stage; `__main__` has the table of all. What a stage reads and writes are files in --work that can
be looked at.
"""
