"""The command line: reading arguments and printing answers, nothing else."""
