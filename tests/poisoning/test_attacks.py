"""Attacks on learning do what their sources say, and the same again from the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyncfl.errors import ConfigurationError
from asyncfl.poisoning import (
    ATTACKS,
    ALittleIsEnough,
    Data,
    FedAOTAdaptive,
    InnerProduct,
    Sight,
    Sybils,
    make_attack,
    reach,
)
from asyncfl.rules import aggregate
from asyncfl.rules.fedaot import FedAOT

DIMENSION = 200


def sight(honest: int = 12, attackers: int = 4, *, epoch: int = 1, spread: float = 0.7) -> Sight:
    """Honest updates around a common direction; the attackers trained something else."""
    draw = torch.Generator().manual_seed(honest * 100 + attackers)
    direction = torch.randn(DIMENSION, generator=draw)
    seen = direction + spread * torch.randn(honest, DIMENSION, generator=draw)
    own = torch.randn(attackers, DIMENSION, generator=draw)
    return Sight(own, seen, tuple(range(attackers)), honest + attackers, b"s", epoch)


def everybody(forged: Tensor, what: Sight) -> Tensor:
    return torch.cat([forged, what.seen])


def examples(count: int = 60, classes: int = 10) -> Data:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 200, (count, 8, 8), generator=draw).to(torch.uint8)
    return Data(images, torch.arange(count) % classes, classes)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_is_a_function_of_its_sight_and_says_where_it_comes_from(name: str) -> None:
    attack, again = make_attack(name), make_attack(name)
    what = sight()
    own, seen = what.own.clone(), what.seen.clone()
    forged = attack.forge(what).updates
    assert forged.shape == what.own.shape
    assert bool(torch.isfinite(forged).all())
    assert torch.equal(forged, again.forge(sight()).updates)
    assert torch.equal(what.own, own)
    assert torch.equal(what.seen, seen)
    facts = attack.facts
    assert facts.tries
    assert facts.knows
    assert any(character.isdigit() for character in facts.source)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_that_does_not_say_that_it_observes_forges_the_same_without_others(name: str) -> None:
    attack, what = make_attack(name), sight()
    other = Sight(what.own, what.own, what.attackers, what.clients, what.seed, what.epoch)
    same = torch.equal(attack.forge(what).updates, attack.forge(other).updates)
    assert same is not attack.observes


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_poisoned_examples_differ_where_the_attack_says_so_and_the_originals_stay(name: str) -> None:
    attack, data = make_attack(name), examples()
    inputs, labels = data.inputs.clone(), data.labels.clone()
    poisoned = attack.poison(data, 0, b"s")
    changed = not (torch.equal(poisoned.inputs, inputs) and torch.equal(poisoned.labels, labels))
    assert changed is attack.poisons
    assert torch.equal(data.inputs, inputs)
    assert torch.equal(data.labels, labels)
    again = attack.poison(data, 0, b"s")
    assert torch.equal(poisoned.inputs, again.inputs)
    assert torch.equal(poisoned.labels, again.labels)


def test_flipped_labels_are_the_opposite_class() -> None:
    poisoned = make_attack("label-flip").poison(examples(), 0, b"s")
    assert torch.equal(poisoned.labels, 9 - examples().labels)


def test_with_multi_label_flip_no_class_keeps_its_label_and_attackers_differ() -> None:
    attack, data = make_attack("multi-label-flip"), examples()
    taught = [attack.poison(data, attacker, b"s").labels for attacker in range(3)]
    for labels in taught:
        assert not (labels == data.labels).any()
        assert len({(a, b) for a, b in zip(data.labels.tolist(), labels.tolist(), strict=True)}) == 10
    assert not torch.equal(taught[0], taught[1])


def test_a_backdoor_marks_half_of_the_images_with_the_square_and_its_class() -> None:
    attack, data = make_attack("backdoor"), examples()
    poisoned = attack.poison(data, 0, b"s")
    marked = (poisoned.inputs[:, -3:, -3:] == 255).flatten(1).all(1)
    assert int(marked.sum()) == 30
    assert attack.trigger is not None
    assert (poisoned.labels[marked] == attack.trigger.target).all()
    assert torch.equal(poisoned.labels[~marked], data.labels[~marked])
    assert torch.equal(poisoned.inputs[:, :-3], data.inputs[:, :-3])


def test_a_trigger_on_rows_of_numbers_is_their_last_values_at_the_largest_of_all() -> None:
    trigger = make_attack("backdoor").trigger
    assert trigger is not None
    rows = torch.linspace(-1, 1, 40).reshape(4, 10)
    stamped = trigger.stamp(rows)
    assert (stamped[:, -3:] == 1.0).all()
    assert torch.equal(stamped[:, :-3], rows[:, :-3])


def test_a_flipped_sign_and_a_scaled_update() -> None:
    what = sight()
    assert torch.equal(make_attack("sign-flip").forge(what).updates, -what.own)
    assert torch.equal(make_attack("scaling").forge(what).updates, 10 * what.own)


def test_noise_is_as_long_as_said_and_another_in_each_epoch_and_attacker() -> None:
    what, attack = sight(), make_attack("gaussian-noise")
    forged = attack.forge(what).updates
    assert torch.allclose(forged.norm(dim=1), 5 * what.own.norm(dim=1), rtol=1e-4)
    other = attack.forge(sight(epoch=2)).updates
    assert not torch.equal(forged, other)
    cosines = torch.nn.functional.cosine_similarity(forged[0], forged[1:], dim=1)
    assert (cosines.abs() < 0.4).all()


def test_model_replacement_under_the_mean_makes_the_attackers_own_model() -> None:
    """Of converged honest clients, whose updates are small: bound by their share of the mean."""
    what = sight()
    quiet = Sight(what.own, 1e-3 * what.seen, what.attackers, what.clients, what.seed, 1)
    forged = make_attack("model-replacement").forge(quiet).updates
    moved = aggregate("mean", everybody(forged, quiet))
    honest = quiet.seen.sum(0).norm() / quiet.clients
    assert float((moved - quiet.own.mean(0)).norm()) <= 1.001 * float(honest)


@pytest.mark.parametrize(("honest", "attackers"), [(12, 4), (14, 6), (31, 19), (9, 1)])
def test_a_little_stays_within_z_deviations_and_z_leaves_enough_supporters(
    honest: int, attackers: int
) -> None:
    what = sight(honest, attackers)
    z = reach(what.clients, attackers)
    forged = ALittleIsEnough().forge(what).updates
    off = (forged[0] - what.direction).abs()
    assert torch.allclose(off, z * what.seen.std(0, correction=0), atol=1e-5)
    assert 0 <= z < 3


def test_z_of_the_sources_example() -> None:
    """Baruch et al., section 3.2: of 50 workers 24 corrupted, s = 2, (n - m - s) / (n - m) = 24 / 26, z = 1.4..."""
    assert reach(50, 24) == pytest.approx(1.426, abs=0.001)


def test_an_inner_product_with_the_honest_mean_is_negative_and_turns_the_mean_beyond_its_epsilon() -> None:
    what = sight(12, 4)
    honest = what.seen.mean(0)
    small = InnerProduct().forge(what).updates
    assert float(small[0] @ honest) < 0
    assert float(aggregate("mean", everybody(small, what)) @ honest) > 0
    large = InnerProduct(epsilon=1.1 * 12 / 4).forge(what).updates
    assert float(aggregate("mean", everybody(large, what)) @ honest) < 0


def test_mimics_all_send_one_honest_update_and_keep_to_that_client() -> None:
    attack, carried, chosen = make_attack("mimic"), None, []
    draw = torch.Generator().manual_seed(3)
    apart = torch.randn(12, DIMENSION, generator=draw)
    apart[5] *= 3  # One client's data differs most.
    for epoch in range(8):
        seen = apart + 0.5 * torch.randn(12, DIMENSION, generator=draw)
        forged = attack.forge(Sight(apart[:3], seen, (0, 1, 2), 15, b"s", epoch, carried))
        carried = forged.carried
        found = [int((seen == row).all(1).nonzero()) for row in forged.updates]
        assert len(set(found)) == 1
        chosen.append(found[0])
    assert set(chosen[2:]) == {5}


def test_a_mimic_that_saw_itself_alone_at_first_finds_what_tells_others_apart_later() -> None:
    attack, what = make_attack("mimic"), sight()
    alone = attack.forge(Sight(what.own[:1], what.seen[:1], (0,), 16, b"s", 1))
    assert torch.equal(alone.updates, what.seen[:1])
    later = Sight(what.own, what.seen, what.attackers, what.clients, b"s", 2, alone.carried)
    assert torch.equal(attack.forge(later).updates, attack.forge(sight(epoch=2)).updates)
    assert not torch.equal(attack.forge(later).updates[0], what.seen[0])


def test_sybils_repeat_one_attackers_update_and_their_noise_cancels() -> None:
    what = sight()
    forged = Sybils().forge(what).updates
    assert torch.allclose(forged.mean(0), what.own[0], atol=1e-4)
    assert len({tuple(row.tolist()) for row in forged}) == len(forged)
    cosines = torch.nn.functional.cosine_similarity(forged, what.own[:1], dim=1)
    assert (cosines > 0.98).all()


def test_krum_chooses_what_was_made_for_it_and_so_goes_against_every_sign() -> None:
    what = sight(14, 5, spread=4.0)
    forged = make_attack("fang-krum").forge(what).updates
    chosen = aggregate("krum", everybody(forged, what), byzantine=5)
    assert torch.equal(chosen, forged[0])
    assert float(chosen @ what.direction) < 0
    assert (torch.sign(chosen) == -torch.sign(what.direction)).all()


def test_made_for_krum_by_one_attacker_that_sees_itself_alone_is_against_its_signs_and_no_longer() -> None:
    what = sight(honest=1, attackers=1)
    forged = make_attack("fang-krum").forge(what).updates
    assert torch.equal(torch.sign(forged[0]), -torch.sign(what.seen[0]))
    assert float(forged.norm()) == pytest.approx(float(what.seen.norm()), rel=1e-4)


def test_made_for_the_trimmed_mean_every_coordinate_is_beyond_the_honest_ones_on_the_wrong_side() -> None:
    what = sight(14, 5)
    forged = make_attack("fang-trimmed-mean").forge(what).updates
    rising = what.direction > 0
    assert (forged[:, rising] <= what.seen.amin(0)[rising]).all()
    assert (forged[:, ~rising] >= what.seen.amax(0)[~rising]).all()
    honest = what.seen.mean(0)
    rule = aggregate("trimmed_mean", everybody(forged, what), byzantine=5)
    assert float((rule - honest) @ torch.sign(honest)) < 0
    assert float(rule.norm()) < 0.8 * float(honest.norm())


def test_what_is_made_against_fedaot_weighs_as_much_as_honest_updates_and_more_than_flipped_labels_do() -> (
    None
):
    what = sight(14, 5)
    forged = FedAOTAdaptive().forge(what).updates
    adapted = FedAOT().step(everybody(forged, what)).weights
    plain = FedAOT().step(everybody(what.own, what)).weights
    assert float(adapted[:5].mean()) > 2 * float(plain[:5].mean())
    assert float(adapted[:5].mean()) > 0.8 * float(adapted[5:].mean())
    # And yet it carries poison: it leans out of the honest mean towards what the attackers trained.
    poison = (
        what.own.mean(0) - what.direction * (what.own.mean(0) @ what.direction) / what.direction.norm() ** 2
    )
    assert float(torch.nn.functional.cosine_similarity(forged[0], poison, dim=0)) > 0.2


def test_attacks_together_and_divided() -> None:
    what, data = sight(), examples()
    together = make_attack("label-flip+scaling")
    assert torch.equal(together.forge(what).updates, 10 * what.own)
    assert torch.equal(together.poison(data, 1, b"s").labels, 9 - data.labels)
    divided = make_attack("sign-flip|label-flip+scaling")
    forged = divided.forge(what).updates
    assert torch.equal(forged[0::2], -what.own[0::2])
    assert torch.equal(forged[1::2], 10 * what.own[1::2])
    assert torch.equal(divided.poison(data, 0, b"s").labels, data.labels)
    assert torch.equal(divided.poison(data, 1, b"s").labels, 9 - data.labels)
    assert make_attack("gaussian-noise|backdoor").trigger is not None


def test_a_part_of_divided_attackers_colludes_by_its_own_numbers() -> None:
    """In a process of their own, attackers 1 and 3 send what they would beside 0 and 2."""
    what, attack = sight(), make_attack("gaussian-noise|sign-flip")
    alone = Sight(what.own[[1, 2]], what.seen, (1, 2), what.clients, what.seed, what.epoch)
    assert torch.equal(attack.forge(alone).updates, attack.forge(what).updates[[1, 2]])


def test_an_unknown_attack_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="'label-flop'; there are label-flip"):
        make_attack("sign-flip|label-flop")
