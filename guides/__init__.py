"""The inference programs, one file per system, built from their models and matching them site for site."""
