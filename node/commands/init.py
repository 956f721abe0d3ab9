"""`asyncfl init`: make a deployment."""

from __future__ import annotations

from enum import StrEnum
from math import sqrt
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.markup import escape

from asyncfl.deployment import ModelEntry, PrivacyEntry
from asyncfl.errors import ConfigurationError
from asyncfl.parameters import Parameters
from node.commands.common import Directory, JsonFlag, key_values, messages, output, write_json
from node.deployment_creation import DELTA, NewDeployment, create_deployment


class Buffers(StrEnum):
    TRAIN = "train"
    FREEZE = "freeze"


def init(
    *,
    directory: Directory,
    replicas: Annotated[int, typer.Option(min=1, help="Aggregators, n.")] = 4,
    clients: Annotated[int, typer.Option(min=1, help="Clients to enrol.")] = 16,
    byzantine: Annotated[int, typer.Option(min=0, help="Faulty replicas to tolerate, t; n >= 3t+1.")] = 1,
    task: Annotated[str, typer.Option(help="digits, npz:PATH or MODULE:FACTORY.")] = "digits",
    seed: Annotated[int, typer.Option(min=0, help="Initial weights and data partition.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Of local SGD.", show_default="depends on the task")
    ] = None,
    local_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Local batches; 0: one pass.", show_default="depends on the task"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, show_default="depends on the task")] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Any key of \\[training], such as decay=cosine or proximal=0.1."
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any key of \\[parameters], such as clip=2.0 or cell_size=8."),
    ] = None,
    task_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the task's factory.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Any key of \\[stop], such as accuracy=0.95; needs metrics=true."
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0, help="Privacy budget of each client; sets the noise.", show_default="no noise"),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Probability outside the guarantee of --epsilon.", show_default=f"{DELTA:g}"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Uploads that --epsilon has to last for.", show_default=False)
    ] = None,
    malicious_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of clients whose noise is not counted on.")
    ] = 0.0,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How opened groups are aggregated: median, multi_krum, bulyan, ...",
            show_default="mean",
        ),
    ] = None,
    rule_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Option of the rule, such as steps=5 or then=krum."),
    ] = None,
    bad_clients: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of malicious clients that the rule has to stand.",
            show_default="as many as it stands",
        ),
    ] = None,
    buffers: Annotated[
        Buffers | None,
        typer.Option(
            help="Floating buffers such as BatchNorm's statistics: trained, or frozen as initialised.",
            show_default="frozen with noise, else trained",
        ),
    ] = None,
    base_port: Annotated[
        int | None, typer.Option(help="First of n consecutive ports.", show_default="free ones")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="Address of a replica elsewhere, ws://host:port."),
    ] = None,
    public_keys: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The parties' .pub files; then no private key is made here."),
    ] = None,
    allow_misbehaviour: Annotated[
        bool,
        typer.Option(
            "--allow-misbehaviour", help="For drills: nodes may misbehave on purpose. Never in earnest."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Make a deployment: deployment.toml, the initial model, and a private key file (mode 0600) per node.

    The keys are made here, unless every party made its own with [bold]asyncfl keygen[/] and sent the
    public half.

    [bold]Examples[/]

    asyncfl init run --replicas 4 --clients 16

    asyncfl init run --task npz:mnist.npz --task-option partition=dirichlet --task-option alpha=0.3

    asyncfl init run --task mytask:make --learning-rate 0.05 --local-steps 20 --parameter clip=5.0

    asyncfl init run --training decay=cosine --training decay_epochs=40 --training seconds=30

    asyncfl init run --parameter metrics=true --stop accuracy=0.95 --stop patience_rows=20

    asyncfl init run --clients 60 --parameter cell_size=3 --rule multi_krum --bad-clients 0.1

    asyncfl init run --clients 1300 --epsilon 4 --epochs 60 --malicious-fraction 0.05

    asyncfl init run --public-keys pubs --url replica-0=ws://a.example:7000 --url replica-1=ws://...
    """
    if delta is not None and epsilon is None:
        raise ConfigurationError(
            "--delta is part of the budget that --epsilon sets: give --epsilon too, or leave --delta out"
        )
    named = {"learning_rate": learning_rate, "local_steps": local_steps, "batch_size": batch_size}
    chosen = {key: value for key, value in named.items() if value is not None}
    wanted = NewDeployment(
        replicas=replicas,
        clients=clients,
        byzantine=byzantine,
        task=task,
        seed=seed,
        task_options=key_values("--task-option", task_option or ()),
        parameters=_joined(
            {
                key: value
                for key, value in (
                    ("rule", rule),
                    ("rule_options", key_values("--rule-option", rule_option) if rule_option else None),
                    ("bad_clients", bad_clients),
                )
                if value is not None
            },
            "--parameter",
            key_values("--parameter", parameter or ()),
        ),
        training=_joined(chosen, "--training", key_values("--training", training or ())),
        stop=key_values("--stop", stop or ()),
        epsilon=epsilon,
        delta=DELTA if delta is None else delta,
        epochs=epochs,
        malicious_fraction=malicious_fraction,
        buffers=None if buffers is None else buffers.value,
        base_port=base_port,
        urls=_urls(url or ()),
        public_keys=public_keys,
        allow_misbehaviour=allow_misbehaviour,
    )
    made = create_deployment(directory, wanted)
    deployment = made.deployment
    facts: dict[str, Any] = {
        "directory": str(directory),
        "deployment": deployment.digest.hex(),
        "replicas": {entry.name: entry.url for entry in deployment.replicas},
        "clients": [entry.name for entry in deployment.clients],
        "dimension": deployment.model.weights + deployment.model.buffers,
        "parameters": deployment.parameters.model_dump(),
        "frozen_buffers": deployment.model.frozen_buffers,
        "stop": None if deployment.stop is None else deployment.stop.model_dump(),
        "privacy": None if deployment.privacy is None else deployment.privacy.model_dump(),
    }
    used = deployment.parameters
    if deployment.allow_misbehaviour:
        messages.print(
            "[bold yellow]warning:[/] this deployment is a drill: its nodes may misbehave on purpose (asyncfl node "
            "--misbehave); train nothing in it that matters",
            soft_wrap=True,
        )
    if clients < 2 * used.cell_size and used.min_group == 2:
        messages.print(
            f"[yellow]warning:[/] with {clients} clients all the news in a model can be the sum of two of them, from "
            "which each of the two works out what the other sent; for masks that hide one client from another, make "
            f"groups larger: --clients 6{'' if clients < 3 else ', or --parameter min_group=3'}",
            soft_wrap=True,
        )
    if used.rule != "mean":
        from asyncfl.group_rules import warn_of_rule

        warned = warn_of_rule(used, clients)
        if warned is not None:
            messages.print(f"[yellow]warning:[/] {escape(warned)}", soft_wrap=True)
    if json:
        write_json(facts, Path("-"))
        return
    output.print(f"[bold green]made[/] {escape(str(directory))}: deployment {deployment.digest.hex()[:16]}")
    output.print(
        f"  {replicas} replicas, of which {byzantine} may fail; {clients} clients in cells of "
        f"{used.cell_size}; sums of {used.min_group} to {used.max_group} clients are opened, nothing smaller",
        soft_wrap=True,
    )
    output.print(f"  task {escape(task)}, {facts['dimension']:,} coordinates")
    output.print(f"  {_privacy(used, deployment.privacy, epochs, malicious_fraction)}", soft_wrap=True)
    if used.rule != "mean":
        from asyncfl.group_rules import explain_rule

        output.print(f"  rule {used.rule}: {explain_rule(used, clients)}", soft_wrap=True)
    if used.noise_multiplier and epochs is not None:
        output.print(f"  {_verdict(used, epochs, clients, facts['dimension'])}", soft_wrap=True)
    if deployment.model.buffers or deployment.model.frozen_buffers:
        output.print(f"  {_buffers(deployment.model, used)}", soft_wrap=True)
    if public_keys is None:
        output.print(f"  private keys of all nodes in {escape(str(directory / 'keys'))}, mode 0600")
    output.print("  operator.key signs rosters and enrolments: keep it where no node runs")
    if public_keys is None:
        output.print(
            f"next: [bold]asyncfl up {escape(quote(str(directory)))} --epochs {epochs or 20}[/]",
            soft_wrap=True,
        )
    else:
        output.print(
            "next: send deployment.toml and model.safetensors, neither of them secret, to every party, who puts them "
            "beside its keys/ and runs [bold]asyncfl node[/]",
            soft_wrap=True,
        )


def _privacy(used: Parameters, budget: PrivacyEntry | None, epochs: int | None, fraction: float) -> str:
    """What the noise is worth, in a sentence: also when there is none."""
    assumed = (
        f"of {used.min_group} members of a group {used.malicious_allowance} may collude (at a fraction of "
        f"{fraction:g}), {used.honest_members} add the noise"
    )
    if used.noise_multiplier == 0:
        return (
            "no differential privacy (noise multiplier 0): averages of single clients leak over many epochs"
        )
    if budget is None:
        return f"noise multiplier {used.noise_multiplier:.4g}, no budget; {assumed}"
    return (
        f"epsilon {budget.epsilon:g} at delta {budget.delta:g} for {epochs} uploads of each client: noise multiplier "
        f"{used.noise_multiplier:.4g}; {assumed}"
    )


def _verdict(used: Parameters, epochs: int, clients: int, dimension: int) -> str:
    """Whether a model trains under this noise, as `asyncfl plan` judges it."""
    from asyncfl.privacy.verdict import Run, Verdict

    noise = used.noise_multiplier * sqrt(dimension / (used.honest_members * clients))
    judged = Run(epochs, dimension).judge(noise, used.server_learning_rate)
    if judged is Verdict.USABLE:
        return f"the noise in the mean of all clients is {noise:.3g} times the clip: [green]usable[/]"
    return (
        f"[yellow]the noise in the mean of all clients is {noise:.3g} times the clip: {judged.value}[/]; "
        "`asyncfl plan` tells what would help"
    )


def _joined(named: dict[str, Any], option: str, others: dict[str, Any]) -> dict[str, Any]:
    """Options of their own and `option` KEY=VALUE together. Raises `ConfigurationError` for one given twice."""
    for key in named.keys() & others.keys():
        raise ConfigurationError(f"{option} {key} and --{key.replace('_', '-')} are the same: give one")
    return {**named, **others}


def _buffers(model: ModelEntry, used: Parameters) -> str:
    """What becomes of BatchNorm's statistics, in a sentence."""
    if model.frozen_buffers:
        why = "" if used.noise_multiplier == 0 else ", because of the noise (--buffers train trains them)"
        return (
            f"the model's floating buffers (as of BatchNorm) stay as initialised{why}; GroupNorm or LayerNorm "
            "has none, and is to be preferred"
        )
    noise = "" if used.noise_multiplier == 0 else ", with the same noise as the weights"
    return (
        f"{model.buffers:,} of these are floating buffers (as of BatchNorm): they travel under a clip of their "
        f"own, buffer_clip {used.buffer_clip:g}{noise}"
    )


def _urls(pairs: tuple[()] | list[str]) -> dict[str, str]:
    urls: dict[str, str] = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not equals or not name or not url:
            raise ConfigurationError(f"--url {pair!r}: NAME=URL is needed, as in replica-0=ws://host:7000")
        if name in urls:
            raise ConfigurationError(f"--url {name} is given twice")
        urls[name] = url
    return urls
