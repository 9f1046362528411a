"""Games an agent can play: pure torch, any number of them side by side."""
