"""What a run folder needs besides checkpoints: metrics, lock, identity of a run, room on disk."""
