"""All-reduce bandwidth of a group; runs in the engine's image, which has PyTorch and its NCCL.

Started on every host by torchrun. Prints one line a size, and the largest bus bandwidth last.
"""

# ruff: noqa: T201  its output is its result

import os
import time

import torch  # type: ignore[import-not-found]  # of the engine's image
import torch.distributed as dist  # type: ignore[import-not-found]

SIZES = [1 << shift for shift in (20, 24, 28, 30, 33)]  # bytes; the fabric is saturated at the last
WARM_UP, ROUNDS = 5, 20


def main() -> None:
    """Measure and print."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    best = 0.0
    for size in SIZES if cuda else SIZES[:2]:
        data = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)
        for _ in range(WARM_UP):
            dist.all_reduce(data)
        if cuda:
            torch.cuda.synchronize()
        dist.barrier()
        begin = time.perf_counter()
        for _ in range(ROUNDS):
            dist.all_reduce(data)
        if cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / ROUNDS
        # Bus bandwidth as nccl-tests defines it (doc/PERFORMANCE.md): comparable over group sizes.
        bus = size / seconds * 2 * (world - 1) / world / 1e9
        best = max(best, bus)
        if rank == 0:
            print(f"manyhost nccl bytes={size} seconds={seconds:.6f} busbw={bus:.2f}", flush=True)
    dist.barrier()
    if rank == 0:
        print(f"manyhost nccl done ranks={world} busbw={best:.2f}", flush=True)
    dist.destroy_process_group()


main()
