"""Clips that stay on disk: arrays read by their place in a file, videos and pictures decoded when asked for."""
