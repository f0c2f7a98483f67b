"""What the difference between two arms is, how sure it is, and how it stands to a margin."""
