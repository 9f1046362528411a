"""The engine: one loop that trains any pair of model and guide, and leaves a run folder behind."""
