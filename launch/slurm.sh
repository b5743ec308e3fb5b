#!/bin/bash
#SBATCH --job-name=meerkat-workbench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120      # two minutes before the end: a checkpoint is written
#SBATCH --requeue              # the same command goes on from it
# The folder of this project, with .venv, must be on a file system that all nodes see.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR}"
export MAIN_ADDRESS
MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c '.venv/bin/python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --node_rank "$SLURM_NODEID" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --master_addr "$MAIN_ADDRESS" --master_port 29500 fine_tuning.py'
