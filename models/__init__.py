"""The generative programs, one file per system: plain modules whose `forward` is a Pyro program."""
