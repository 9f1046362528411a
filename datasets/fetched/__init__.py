"""Data that live elsewhere: fetched from their official location on request, or put there by you."""
