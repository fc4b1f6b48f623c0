"""Number formats, bit for bit."""
