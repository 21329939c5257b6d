#!/bin/bash
# Workers as a job array: `sbatch --array=0-7 slurm.sh p.yaml s3://BUCKET/PREFIX`. One that is lost costs what it was at.
#SBATCH --job-name=paraloom
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --requeue
set -euo pipefail
pipeline="$1" store="$2"
exec paraloom worker "$pipeline" --store "$store" \
  --shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT" --threads "${SLURM_CPUS_PER_TASK:-1}"
