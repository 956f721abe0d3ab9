"""Local training: reproducible, from the model received and nothing else, whatever ran before."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from asyncfl.errors import ConfigurationError
from asyncfl.messages import Settings
from asyncfl.model import LayoutError, TrainingResult, flat_from_bytes, model_bytes
from node.training.supervised import SupervisedTask, batches
from node.training.workbench import Workbench

SETTINGS = Settings(learning_rate=0.1, local_steps=5, batch_size=4)


class Points:
    """Two Gaussian clouds; client i has 9 + i points."""

    prepared: tuple[int, ...] = ()

    def prepare(self, clients: object) -> None:
        self.prepared = tuple(clients)  # type: ignore[call-overload]

    def client(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._draw(9 + index, index + 1)

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._draw(64, 0)

    def _draw(self, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 2
        noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
        return noise + 3 * labels[:, None] - 1, labels


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def bench(seed: int = 0, *, device: str = "cpu", build: object = network) -> Workbench:
    return Workbench(SupervisedTask(build, Points()), seed=seed, device=device)  # type: ignore[arg-type]


def test_training_is_a_function_of_seed_client_and_epoch() -> None:
    one, two = bench(), bench()
    results: dict[tuple[int, int], TrainingResult] = {}
    for client in (0, 1):
        for epoch in (0, 1):
            results[client, epoch] = one.train(one.initial, SETTINGS, client, epoch)
    # Another process trains in another order and must come out alike.
    for (client, epoch), expected in reversed(results.items()):
        again = two.train(two.initial, SETTINGS, client, epoch)
        assert torch.equal(again.update, expected.update)
        assert (again.examples, again.loss) == (expected.examples, expected.loss)
    assert not torch.equal(results[0, 0].update, results[0, 1].update)
    assert not torch.equal(results[0, 0].update, results[1, 0].update)
    assert not torch.equal(results[0, 0].update, bench(1).train(one.initial, SETTINGS, 0, 0).update)


def test_the_initial_model_is_a_function_of_the_seed() -> None:
    assert bench(4).initial == bench(4).initial != bench(5).initial


def test_the_update_is_the_trained_model_minus_the_received_one() -> None:
    work = bench()
    start = flat_from_bytes(work.initial)
    result = work.train(work.initial, SETTINGS, 0, 0)
    assert result.update.shape == (work.layout.dimension,)
    assert result.update.dtype == torch.float32
    trained = work.layout.flatten(work._module.state_dict())
    assert torch.equal(start + result.update, trained) or torch.allclose(start + result.update, trained)
    assert result.update.norm() > 0
    assert result.examples == 9
    assert result.seconds > 0


def test_batchnorm_statistics_are_part_of_the_update() -> None:
    work = bench()
    update = work.train(work.initial, SETTINGS, 0, 0).update
    assert work.layout.buffers == 16
    assert update[work.layout.weights :].abs().min() > 0


def test_a_batchnorm_counter_does_not_carry_over_from_one_training_to_the_next() -> None:
    def cumulative() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2))

    work = bench(build=cumulative)
    first = work.train(work.initial, SETTINGS, 0, 0).update
    assert torch.equal(work.train(work.initial, SETTINGS, 0, 0).update, first)


def test_frozen_parameters_and_untravelled_state_stay_as_built() -> None:
    def adapter() -> nn.Module:
        module = network()
        module[0].requires_grad_(False)
        return module

    work = bench(build=adapter)
    frozen = work.state(work.initial)["0.weight"]
    result = work.train(work.initial, SETTINGS, 0, 0)
    assert result.update.shape == (work.layout.dimension,) == (8 + 8 + 16 + 2 + 16,)
    assert torch.equal(work._module.state_dict()["0.weight"], frozen)


def test_rounding_of_half_precision_tensors_is_no_update() -> None:
    work = bench(build=lambda: nn.Linear(3, 2).bfloat16())
    flat = flat_from_bytes(work.initial) + 1e-5
    task = SupervisedTask(lambda: nn.Linear(3, 2).bfloat16(), Points())
    work = Workbench(_Idle(task), seed=0, device="cpu")
    assert not work.train(model_bytes(flat), SETTINGS, 0, 0).update.any()


class _Idle:
    """A task that trains nothing."""

    def __init__(self, task: SupervisedTask) -> None:
        self._task = task
        self.outcome: object = (1, 0.0)

    def model(self) -> nn.Module:
        return self._task.model()

    def train(
        self, module: nn.Module, client_index: int, settings: Settings, epoch: int
    ) -> tuple[int, float]:
        return self.outcome  # type: ignore[return-value]

    def evaluate(self, module: nn.Module) -> float:
        return self._task.evaluate(module)


@pytest.mark.parametrize("outcome", [None, 3, (1,), ("many", 0.1)])
def test_a_train_function_that_returns_the_wrong_thing_is_named(outcome: object) -> None:
    task = _Idle(SupervisedTask(network, Points()))
    task.outcome = outcome
    work = Workbench(task, seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match=r"train\(\) returned .*, not \(examples, loss\)"):
        work.train(work.initial, SETTINGS, 0, 0)


def test_a_model_function_that_returns_no_module_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"model\(\) returned a list, not a torch\.nn\.Module"):
        bench(build=list)


def test_a_model_of_another_size_is_refused() -> None:
    work = bench()
    with pytest.raises(LayoutError, match="another model"):
        work.train(work.initial[:-4], SETTINGS, 0, 0)
    with pytest.raises(LayoutError, match="another model"):
        work.evaluate(work.initial + bytes(4))


def test_torchs_own_generator_is_left_as_it_was() -> None:
    work = bench()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    work.train(work.initial, SETTINGS, 0, 0)
    work.evaluate(work.initial)
    assert torch.equal(torch.rand(3), expected)


def test_clients_of_one_process_may_train_from_several_threads_at_once() -> None:
    work = bench()
    trainers = work.trainers([0, 1, 2, 3])
    expected = {client: trainer.train(work.initial, SETTINGS, 5) for client, trainer in trainers.items()}
    found: dict[int, TrainingResult] = {}

    def run(client: int) -> None:
        found[client] = trainers[client].train(work.initial, SETTINGS, 5)

    threads = [threading.Thread(target=run, args=(client,)) for client in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[client].update, expected[client].update) for client in trainers)


def test_a_process_prepares_the_data_of_its_own_clients_only() -> None:
    points = Points()
    Workbench(SupervisedTask(network, points), seed=0, device="cpu").trainers([3, 1])
    assert points.prepared == (3, 1)


def test_training_learns_and_evaluation_sees_it() -> None:
    work = bench()
    model = work.initial
    for epoch in range(10):
        update = work.train(model, Settings(learning_rate=0.3, local_steps=0, batch_size=4), 0, epoch).update
        model = model_bytes(flat_from_bytes(model) + update)
    assert work.evaluate(model) > 0.9 > work.evaluate(work.initial)


def test_evaluation_uses_running_statistics_and_drops_nothing_out() -> None:
    task = SupervisedTask(network, Points())
    modes: list[bool] = []

    class Watched(_Idle):
        def evaluate(self, module: nn.Module) -> float:
            modes.append(any(part.training for part in module.modules()))
            return super().evaluate(module)

    work = Workbench(Watched(task), seed=0, device="cpu")
    work.train(work.initial, SETTINGS, 0, 0)
    before = work.evaluate(work.initial)
    assert modes == [False]
    assert work.evaluate(work.initial) == before


@pytest.mark.parametrize(
    ("count", "size", "steps", "expected"),
    [
        (10, 4, 0, [4, 4, 2]),
        (9, 4, 0, [4, 5]),
        (3, 1, 0, [1, 1, 1]),
        (1, 4, 0, [1]),
        (10, 4, 5, [4, 4, 2, 4, 4]),
        (10, 100, 3, [10, 10, 10]),
        (10, 4, 1, [4]),
    ],
)
def test_batches_have_the_asked_number_and_leave_no_lone_example(
    count: int, size: int, steps: int, expected: list[int]
) -> None:
    assert [len(batch) for batch in batches(count, size, steps)] == expected


def test_a_pass_visits_every_example_once_in_a_new_order() -> None:
    parts = list(batches(12, 5, 6))
    first, second = torch.cat(parts[:3]), torch.cat(parts[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(12))
    assert first.tolist() != second.tolist()


def test_a_client_without_examples_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="without training examples"):
        next(batches(0, 4, 0))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_agrees_with_the_cpu() -> None:
    def smooth() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

    on_cpu, on_cuda = bench(build=smooth), bench(build=smooth, device="cuda")
    assert on_cpu.initial == on_cuda.initial
    expected = on_cpu.train(on_cpu.initial, SETTINGS, 0, 0)
    found = on_cuda.train(on_cuda.initial, SETTINGS, 0, 0)
    assert found.update.device.type == "cuda"
    assert torch.allclose(found.update.cpu(), expected.update, rtol=1e-3, atol=1e-5)
    again = on_cuda.train(on_cuda.initial, SETTINGS, 0, 0)
    assert torch.equal(again.update, found.update)
    assert on_cuda.evaluate(on_cuda.initial) == pytest.approx(on_cpu.evaluate(on_cpu.initial), abs=0.02)
