"""The referee: the Sigma engine's index against its plain matcher, which must say the same of every
event, real or made up (`python -m tests.referee --help`)."""
