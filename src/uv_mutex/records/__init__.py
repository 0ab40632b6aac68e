"""What is written down about guarded calls."""
