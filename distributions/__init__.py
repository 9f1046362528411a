"""Densities of our own, as torch and Pyro distributions."""
