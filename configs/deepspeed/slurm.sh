#!/usr/bin/env bash
# A training of the language model on several nodes under SLURM; not yet run on a GPU.
#
#   sbatch configs/deepspeed/slurm.sh configs/mllm/qwen2.5-7b-instruct/mllm.yaml
#   sbatch --nodes 4 configs/deepspeed/slurm.sh FILE key.sub=value ...
#
# The folders that the config names must be shared by the nodes. A job that is requeued, or sent again
# with another number of nodes, resumes from its last whole checkpoint.
#SBATCH --job-name=semhitok
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

config=${1:?give the YAML of the training, then any key.sub=value}
shift
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A port of the job's own: two jobs may share their first node.
port=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=8

srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$first_node:$port" \
    -m semhitok train mllm --config "$config" "$@"
