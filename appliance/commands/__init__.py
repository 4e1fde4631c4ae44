"""What each command of `appliance` does: arguments in, an exit code out."""
