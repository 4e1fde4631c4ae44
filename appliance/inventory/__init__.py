"""Software that the site's own logs reveal, beside the detectors: events in, software out.

`seen` holds the types and what is done to hostile text, `packages`, `windows` and `banners` read
what their records say, `observe` asks the right one of each event, `ledger` decides what is to be
stored.
"""
