#!/usr/bin/env bash
# Prepare a dataset on a Slurm cluster: plan here, run the units as a job array, seal when all of them are done.
#
#   examples/slurm/prepare.sh recipe.yaml /shared/shards
#
# OUT is a folder that all nodes see, or an address such as s3://bucket/shards; the same versions are installed
# everywhere. Started again after a failure, it plans the same units, and those that are done take no time.
set -euo pipefail

recipe=$1
out=$2

units=$(sftdata unit plan --quiet --config "$recipe" --out "$out")

# one core a unit, at most 64 at once; a job whose node dies is queued again
array=$(sbatch --parsable --job-name=sftdata-run --array="0-$((units - 1))%64" --requeue \
  --cpus-per-task=1 --mem=2G --time=01:00:00 \
  --wrap="sftdata unit run '$out' --index-env SLURM_ARRAY_TASK_ID")

sbatch --job-name=sftdata-seal --dependency="afterok:$array" --cpus-per-task=1 --mem=4G --time=01:00:00 \
  --wrap="sftdata unit seal '$out'"
