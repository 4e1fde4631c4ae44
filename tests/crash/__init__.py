"""What is stopped with kill -9 and what must have survived it."""
