"""The indicators detector of the detect stage: values that were seen in attacks, found again.

`values` brings what a feed or a log writes to the one form in which values are compared, `fields`
says which fields of a view hold such values, `file` is the file of indicators that every process
of the line opens, `detector` looks events up in it.
"""
