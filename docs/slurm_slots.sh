#!/bin/bash
# One Slurm job that runs a whole sweep in its own slots: for clusters that frown on many small jobs, or have no shards.
#   sbatch --partition=NAME docs/slurm_slots.sh criterion=l1,l2,gm ratio=0.3,0.5 hydra.launcher.per_device=4
# Give it from the project's folder. The sweep uses the GPUs and CPUs of the allocation, per_device jobs on each GPU. Before the
# time limit, and when it is preempted, its jobs save their states and the whole goes on from the queue.
#SBATCH --job-name=prunescope
#SBATCH --nodes=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append

"${PYTHON:-.venv/bin/python}" run.py --multirun hydra/launcher=slots "$@" &
sweep=$!
trap 'kill -TERM $sweep' USR1 USR2 TERM

# A signal ends wait, not the sweep; asked once more, wait still knows the exit code.
while kill -0 $sweep 2>/dev/null; do
  wait $sweep
done
wait $sweep
code=$?

# 75: stopped, with everything saved. A job that was cancelled stays so.
if [ $code -eq 75 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
