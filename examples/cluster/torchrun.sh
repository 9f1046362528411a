#!/bin/sh
# Train on several machines with torchrun: run this on each of them, with the same numbers.
#
#   HOST=first-machine NODES=4 PROCESSES=8 sh examples/cluster/torchrun.sh train sqair --out /shared/runs/sqair
#
# HOST       a name or address of one of the machines that all others reach
# NODES      how many machines; "2:4" for two at least and four at most
# PROCESSES  accelerators per machine, or processes where there are none
# RESTARTS   how often the run may go on after a process was lost
#
# The run folder must be on a file system that all machines see. --auto-resume makes the command the same at its first
# start and at every later one: torchrun starts all processes again when one fails, with those that are left.

# the store that torchrun would share between starts still holds the addresses of processes that are no more
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-python3}" -P -m torch.distributed.run \
    --nnodes "${NODES:-1}" --nproc-per-node "${PROCESSES:-1}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-id "${RUN:-phlogiston}" --rdzv-endpoint "${HOST:-localhost}:${PORT:-29500}" \
    ${ADDRESS:+--local-addr "$ADDRESS"} \
    -m phlogiston "$@" --auto-resume
