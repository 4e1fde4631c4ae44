"""Where bytes come in: whole records are framed here, and every source knows where it stands."""
