"""The experts: after detect, before correlate. Each adds an opinion with its evidence to a
finding; none can lower a level or drop a finding."""
