"""Data of the user's own: formats, and the sources that read them."""
