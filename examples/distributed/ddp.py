"""Train on several processes with PyTorch's DistributedDataParallel, saving after every epoch.

An ordinary script: it finds the other processes by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which
torchrun, accelerate, deepspeed, mpirun or the platform itself set. Started again with the same folder it goes on after
the last whole epoch, on as many processes as there are then.

    torchrun --nproc_per_node 2 ddp.py --epochs 5 --checkpoints /tmp/ddp
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def main() -> None:
    """Train, and say what came of it."""
    args = parse_arguments()
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    torch.manual_seed(7)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    done = resume(args.checkpoints, network, optimizer)
    if done and rank == 0:
        print(f"resumed after epoch {done} on {world} processes", flush=True)
    model = DistributedDataParallel(network)
    data = made_up_data()
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, seed=7)
    loader = DataLoader(data, batch_size=64, sampler=sampler)
    for epoch in range(done + 1, args.epochs + 1):
        sampler.set_epoch(epoch)
        total = torch.zeros(1, device=device)
        for features, wanted in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(features.to(device)), wanted.to(device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        distributed.all_reduce(total)
        if rank == 0:
            save(args.checkpoints, epoch, network, optimizer)
            print(f"epoch={epoch} loss={total.item() / len(loader) / world:.5f}", flush=True)
        time.sleep(args.pause)
    weights = torch.nn.utils.parameters_to_vector(network.parameters()).detach().cpu()
    digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]
    print(f"rank {rank} of {world}: weights {digest}", flush=True)
    distributed.destroy_process_group()


def parse_arguments() -> argparse.Namespace:
    """Return what the command line and the platform say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each epoch")
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("DUJIANG_CHECKPOINT_DIR", "checkpoints"))
    return parser.parse_args()


def made_up_data() -> TensorDataset:
    """Return 4,096 points of a function that takes some epochs to learn; the same in every process."""
    drawn = torch.Generator().manual_seed(7)
    features = torch.randn(4096, 16, generator=drawn)
    wanted = torch.sin(features @ torch.randn(16, 1, generator=drawn) / 4)
    return TensorDataset(features, wanted)


def save(folder: Path, epoch: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "draft.tmp"
    torch.save({"epoch": epoch, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, draft)
    draft.rename(folder / f"epoch-{epoch:04d}.pt")


def resume(folder: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint; return its epoch, 0 when there is none. Every process reads the same file."""
    found = sorted(folder.glob("epoch-*.pt"))
    if not found:
        return 0
    kept = torch.load(found[-1], map_location="cpu")
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["epoch"])


if __name__ == "__main__":
    main()
