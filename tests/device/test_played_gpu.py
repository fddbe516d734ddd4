"""The played GPU refuses what a GPU refuses; on a GPU, these tests show that it does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda on_gpu, on_cpu: on_gpu + on_cpu,
    "a sum in place": lambda on_gpu, on_cpu: on_cpu.add_(on_gpu),
    "a product": lambda on_gpu, on_cpu: on_gpu @ on_cpu,
    "a join": lambda on_gpu, on_cpu: torch.cat([on_gpu, on_cpu]),
    "a stack of single numbers": lambda on_gpu, on_cpu: torch.stack([on_gpu.sum(), on_cpu.sum()]),
    "rows by indices of the GPU": lambda on_gpu, on_cpu: on_cpu[on_gpu[0].long()],
    "a selection by indices of the CPU": lambda on_gpu, on_cpu: on_gpu.index_select(0, on_cpu[0].long()),
    "an array": lambda on_gpu, on_cpu: on_gpu.numpy(),
    "a layer": lambda on_gpu, on_cpu: nn.Linear(3, 3).to(on_gpu.device)(on_cpu),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_of_two_devices_do_not_meet(kind: str, gpu: torch.device) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|should be either on|numpy"):
        REFUSED[kind](torch.zeros(3, 3).to(gpu), torch.zeros(3, 3))


def test_single_numbers_of_the_cpu_are_welcome(gpu: torch.device) -> None:
    on_gpu = torch.ones(3, 3, device=gpu)
    for result in (on_gpu * torch.tensor(2.0), on_gpu[torch.tensor([0])], torch.zeros(3, device=gpu).copy_(on_gpu[0])):
        assert result.device.type == "cuda"
    assert torch.zeros(3).copy_(on_gpu[0]).tolist() == [1.0, 1.0, 1.0]


def test_a_trained_layer_stays_on_the_gpu(gpu: torch.device) -> None:
    layer = nn.Linear(3, 2).to(gpu)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(4, 3, device=gpu)).sum().backward()
    optimizer.step()
    tensors = [layer.weight, layer.weight.grad, optimizer.state[layer.weight]["exp_avg"]]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"cuda"}
    assert layer.weight.cpu().detach().numpy().shape == (2, 3)
