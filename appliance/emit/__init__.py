"""The way out, last on the line: outbox messages become JSON lines and syslog, one sink each."""
