"""Recording games of Gymnasium environments: frames, actions, rewards and ends, flat on disk, game after game."""
