"""The options that say what a model's file does not: its time step, reset, steps, readout."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from snncompile.frontend.reading import Reading

F = TypeVar("F", bound=Callable[..., Any])

NAMES = ("dt", "reset", "fire", "timesteps", "coding", "readout", "factory")

OPTIONS = (
    click.option("--dt", type=float, help="Seconds a time step stands for; 1 where time constants count steps."),
    click.option("--reset", type=click.Choice(["soft", "hard", "none"]), help="How every neuron of the model resets."),
    click.option("--fire", type=click.Choice(["gt", "ge"]), help="Neurons fire above (gt) or at (ge) the threshold."),
    click.option("--timesteps", type=int, help="Steps of a sample, where the model does not say it."),
    click.option("--coding", type=click.Choice(["direct", "events"]), help="An image a sample, or a frame a step."),
    click.option(
        "--readout",
        type=click.Choice(["count", "sum", "mean", "last", "membrane"]),
        help="What the output is: of spikes, of currents, or an integrator's last state.",
    ),
    click.option("--model", "factory", metavar="FILE.py:FUNCTION", help="Builds the module that a state_dict is for."),
)


def reading_options(command: F) -> F:
    """Adds the options that `popped_reading` takes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def popped_reading(options: dict[str, Any]) -> "Reading":
    """What the options say of the model; takes them out of `options`."""
    from snncompile.frontend.reading import Reading

    return Reading(**{name: options.pop(name) for name in NAMES})
