"""What people and other tools read: files made from stored findings."""
