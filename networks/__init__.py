"""torch.nn blocks that know no Pyro: frames and tuple priors of residual mixtures, the beam over their layers."""
