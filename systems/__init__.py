"""A pair becomes a product here: one folder per system, and what all of them share.

    names()         every system              summary(name)    one line about it, and its paper
    config(name)    its configuration class   presets(name)    its named presets
    get(name)       the class itself          load(run)        a trained system from its run folder
    register(package)                         make a system of your own known in this process

Listing and configuring load no torch; `get` and `load` do. `systems/registry.py` says how systems are discovered.
"""

from phlogiston.systems.registry import config, get, load, names, paper, presets, read_config, register, summary

__all__ = ["config", "get", "load", "names", "paper", "presets", "read_config", "register", "summary"]
