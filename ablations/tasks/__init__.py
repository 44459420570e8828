"""What a network can be trained for: detection."""
