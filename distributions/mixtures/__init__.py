"""Gaussian mixtures as distributions that give conditionals, marginals, intervals and quantiles beside a density."""
