"""What a user may set: each setting once, with its range and help, and the experiment files."""
