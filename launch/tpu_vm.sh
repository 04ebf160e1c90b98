#!/usr/bin/env bash
# Trains on a TPU VM of one host. Untested: it needs a Google Cloud project.
#
#   launch/tpu_vm.sh NAME ZONE TYPE [flags of mirl_jax.main]
#   launch/tpu_vm.sh mirl us-east5-b v6e-8 --config=configs/mirl.py
#
# Creates the VM if it is not there, copies this checkout, installs it with the
# `tpu` extra and trains in ~/run; the same line again resumes. It neither
# fetches the run nor deletes the VM: the two commands for that are printed.
# Types of one host only; for more, tpu_pod.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1 zone=$2 type=$3
shift 3
version=${TPU_VERSION:-tpu-ubuntu2204-base}
tpu() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone"
}

tpu describe "$name" >/dev/null 2>&1 ||
  tpu create "$name" --accelerator-type="$type" --version="$version"

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git ls-files -co --exclude-standard -z | tar -czf "$archive" --null -T -
tpu scp "$archive" "$name:mirl_jax.tar.gz" --worker=all

tpu ssh "$name" --worker=all --command="
  set -e
  mkdir -p mirl_jax
  tar -xzf mirl_jax.tar.gz -C mirl_jax
  cd mirl_jax
  python3.11 -m venv .venv
  .venv/bin/pip install -q -e '.[tpu]'
  .venv/bin/python -m mirl_jax.main --workdir=\$HOME/run $(printf '%q ' "$@")
"
echo "fetch:  gcloud compute tpus tpu-vm scp --recurse $name:run . --zone=$zone"
echo "delete: gcloud compute tpus tpu-vm delete $name --zone=$zone"
