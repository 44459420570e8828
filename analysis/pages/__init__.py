"""Tables as text, and the pages they stand on."""
