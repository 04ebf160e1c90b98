#!/usr/bin/env bash
# Trains on the GPUs of one node. Untested: it needs a cluster.
#
#   sbatch --gpus=8 launch/slurm.sh --config=configs/mirl.py --workdir=RUN
#
# from a checkout whose .venv has the `cuda` extra. SLURM's SIGTERM, two minutes
# before the time limit, makes the run save and leave with 143; it is then put
# back into the queue, and resumes.
#SBATCH --job-name=mirl
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

.venv/bin/python -m mirl_jax.main "$@" &
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run"
code=$?
# A trapped signal ends `wait` early: wait for the run to save.
if kill -0 "$run" 2>/dev/null; then
  wait "$run"
  code=$?
fi
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
