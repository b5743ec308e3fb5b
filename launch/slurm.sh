#!/bin/bash
#SBATCH --job-name=meerkat-workbench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@180    # three minutes before the end
#SBATCH --requeue
# The folder of this project, with .venv, must be on a file system that all nodes see.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR}"
export MAIN_ADDRESS
MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c '.venv/bin/python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --node_rank "$SLURM_NODEID" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --master_addr "$MAIN_ADDRESS" --master_port 29500 --shutdown-timeout 150 fine_tuning.py' &
training=$!
# a checkpoint is written, and the job goes back into the queue: the same command goes on from there
trap 'kill -TERM "$training"; wait "$training"; scontrol requeue "$SLURM_JOB_ID"' TERM
wait "$training"
