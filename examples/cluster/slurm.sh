#!/bin/bash
# Train on a SLURM cluster: sbatch examples/cluster/slurm.sh train sqair --out /shared/runs/sqair
#
# srun starts the processes, and says how many there are and where; nothing is repeated to phlogiston. Before the time
# is up SLURM sends SIGTERM: a checkpoint is written, and the job queued again; --auto-resume goes on from there.
#SBATCH --job-name=phlogiston
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

srun phlogiston "$@" --auto-resume
code=$?
if [ "$code" -eq 143 ]; then # stopped by SIGTERM, with a checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
