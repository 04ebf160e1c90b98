#!/usr/bin/env bash
# Trains on the GPUs of one node or of several. Untested: it needs a cluster.
#
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh \
#     --config=configs/mirl.py --workdir=RUN
#
# from a checkout whose .venv has the `cuda` extra, on a disk that all nodes
# share, as they must RUN. One process per node drives its GPUs. SLURM's SIGTERM,
# two minutes before the time limit, goes to every process: they agree on a step,
# save it and leave with 143; the job is then put back into the queue, and
# resumes. A process that dies ends the others.
#SBATCH --job-name=mirl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

several=()
if [ "${SLURM_NNODES:-1}" -gt 1 ]; then
  several=(--processes=auto)
fi
srun --kill-on-bad-exit=1 \
  .venv/bin/python -m mirl_jax.main "${several[@]}" "$@"
code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
