"""Findings become incidents: what shares an entity within a window belongs together."""
