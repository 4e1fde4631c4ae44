"""The demonstration: a SYNTHETIC intrusion, written by us, that the appliance must find."""
