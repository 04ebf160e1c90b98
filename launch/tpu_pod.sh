#!/usr/bin/env bash
# Trains on a TPU slice of several hosts, asked for as a queued resource.
# Untested: it needs a Google Cloud project.
#
#   launch/tpu_pod.sh NAME ZONE TYPE WORKDIR [flags of mirl_jax.main]
#   launch/tpu_pod.sh mirl us-east5-a v5p-64 /mnt/share/run \
#     --config=configs/qwen2_5_vl_32b.py --config.policy.path=/mnt/share/model
#
# WORKDIR and the model must lie on a disk that all hosts mount at the same
# place. Waits until the slice is there, copies this checkout to every host,
# installs it with the `tpu` extra and starts one process on each; the same line
# again resumes. SPOT=1 asks for a slice that may be taken away: the processes
# then save and leave. Nothing is deleted: the command for that is printed.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1 zone=$2 type=$3 workdir=$4
shift 4
version=${TPU_VERSION:-tpu-ubuntu2204-base}
spot=()
if [ "${SPOT:-0}" = 1 ]; then
  spot=(--spot)
fi
queued() {
  local verb=$1
  shift
  gcloud compute tpus queued-resources "$verb" "$name" "$@" --zone="$zone"
}
tpu() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone" --worker=all
}

queued describe >/dev/null 2>&1 ||
  queued create --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" "${spot[@]}"
while true; do
  state=$(queued describe --format='value(state.state)')
  case $state in
  ACTIVE) break ;;
  FAILED | SUSPENDED | SUSPENDING)
    echo "the queued resource $name is $state" >&2
    exit 1
    ;;
  esac
  echo "$(date +%H:%M:%S) $name: $state"
  sleep 30
done

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git ls-files -co --exclude-standard -z | tar -czf "$archive" --null -T -
tpu scp "$archive" "$name:mirl_jax.tar.gz"

tpu ssh "$name" --command="
  set -e
  mkdir -p mirl_jax
  tar -xzf mirl_jax.tar.gz -C mirl_jax
  cd mirl_jax
  python3.11 -m venv .venv
  .venv/bin/pip install -q -e '.[tpu]'
  .venv/bin/python -m mirl_jax.main --processes=auto \
    --workdir=$(printf '%q ' "$workdir" "$@")
"
echo "delete: gcloud compute tpus queued-resources delete $name --force" \
  "--zone=$zone"
