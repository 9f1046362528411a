"""What the engine finds out about a pair before it trains it, and what it refuses."""
