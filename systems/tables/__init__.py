"""Tables in and out of systems: frames, other data brought into the columns of training, rows filled in."""
