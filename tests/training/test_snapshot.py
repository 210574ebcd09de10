"""Copies in host memory: they stay as they were, reuse their memory, and become the files that loaders expect."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from glotok_ray.config import OptimizerConfig
from glotok_ray.storage import artefact
from glotok_ray.training.engine import TorchEngine
from glotok_ray.training.snapshot import HostMemory, Snapshot


def trained(module: nn.Module) -> TorchEngine:
    engine = TorchEngine(module, OptimizerConfig(learning_rate=0.1), 1)
    step(engine)
    return engine


def step(engine: TorchEngine) -> None:
    engine.backward(engine(torch.ones(2, 3)).square().mean())
    engine.step()


def test_what_is_written_is_the_state_at_the_time_of_the_snapshot(tmp_path):
    engine = trained(nn.Linear(3, 2))
    engine.set_learning_rate(0.25)
    weights = {name: value.clone() for name, value in engine.module.state_dict().items()}
    moment = engine._optimizer.state[engine.module.weight]["exp_avg"].clone()
    copies = Snapshot()
    engine.snapshot(copies.within("deep").within("er"))
    engine.set_learning_rate(0.5)
    step(engine)
    copies.write(tmp_path)
    stored = torch.load(tmp_path / "deep" / "er" / "engine.pt", weights_only=True)
    assert not torch.equal(engine.module.weight, weights["weight"])
    for name, value in weights.items():
        assert torch.equal(stored["module"][name], value)
    assert torch.equal(stored["optimizer"]["state"][0]["exp_avg"], moment)
    assert stored["optimizer"]["param_groups"][0]["lr"] == 0.25
    other = trained(nn.Linear(3, 2))
    other.load(tmp_path / "deep" / "er")
    assert torch.equal(other.module.weight, weights["weight"])


def test_the_next_snapshot_takes_the_same_memory():
    engine, memory = trained(nn.Linear(3, 2)), HostMemory()
    places = []
    for _ in range(2):
        copies = Snapshot(memory)
        engine.snapshot(copies)
        copies.add_weights("w.safetensors", engine.module.named_parameters())
        found = [tensor for tensors in memory._buffers.values() for tensor in tensors]
        places.append([tensor.data_ptr() for tensor in found])
        step(engine)
    assert places[0] == places[1]
    assert len(set(places[0])) == len(places[0]) >= 8


def test_memory_of_another_shape_is_taken_anew():
    memory = HostMemory()
    for shape in ((2, 3), (3, 2), (4,)):
        value = torch.rand(shape)
        assert torch.equal(memory.copy("f", 0, value, value.dtype), value)
    half = torch.rand(4).bfloat16()
    assert torch.equal(memory.copy("f", 0, half, torch.float32), half.float())


def test_one_tensor_in_two_places_is_one_copy(tmp_path):
    tensor = torch.rand(3)
    copies = Snapshot()
    copies.add_state("s.pt", {"a": tensor, "b": [tensor, tensor[1:]], "c": "text"})
    copies.write(tmp_path)
    found = torch.load(tmp_path / "s.pt", weights_only=True)
    assert found["a"].data_ptr() == found["b"][0].data_ptr() != found["b"][1].data_ptr()
    assert torch.equal(found["b"][1], tensor[1:])
    assert found["c"] == "text"


def test_safetensors_from_a_stream_are_safetensors(tmp_path):
    state = {
        "half": torch.rand(3, 5).bfloat16(),
        "turned": torch.rand(4, 2).T,
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flag": torch.tensor([True, False]),
    }
    copies = Snapshot()
    copies.add_weights("w.safetensors", state.items())
    copies.add_weights("nobody.safetensors", state.items(), keep=False)
    copies.write(tmp_path)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == state.keys()
    for name, value in state.items():
        expected = value.float() if value.is_floating_point() else value
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_digest_while_writing_is_that_of_the_file(tmp_path):
    engine = trained(nn.Linear(3, 700))
    copies = Snapshot()
    engine.snapshot(copies)
    copies.add_weights("w.safetensors", engine.module.named_parameters())
    for name, content in copies.files.items():
        with artefact.hashed_writer(tmp_path / name) as stream:
            content(stream)
        read = (tmp_path / name).read_bytes()
        assert (stream.sha256, stream.bytes) == (hashlib.sha256(read).hexdigest(), len(read))


@pytest.mark.gpu
def test_copies_from_a_gpu_lie_in_pinned_memory_and_stay(tmp_path):
    tensor = torch.rand(1000, 1000, device="cuda")
    expected, copies = tensor.cpu(), Snapshot(memory := HostMemory())
    copies.add_state("s.pt", [tensor])
    tensor.zero_()
    copies.write(tmp_path)
    assert memory._buffers["s.pt"][0].is_pinned()
    assert torch.equal(torch.load(tmp_path / "s.pt", weights_only=True)[0], expected)
