"""What is stored: predictions, events and files."""
