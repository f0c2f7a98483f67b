"""What a night's run says about the nights before it."""
