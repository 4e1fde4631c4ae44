"""The sentinel: a small model that judges events' texts (one detector of the detect stage)."""
