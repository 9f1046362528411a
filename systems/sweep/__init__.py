"""Searching for options: many trainings of one system, the space they are drawn from, and what came of them."""
