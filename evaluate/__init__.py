"""Scores with their error bars, figures and reports, for any system: this room names none."""
