"""The kinds of evidence, a file each: its checks, its text, its JSON, and how it restricts a vector or a category."""
