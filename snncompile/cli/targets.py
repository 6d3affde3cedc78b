"""`snncompile targets`."""

from typing import Any

import click

from snncompile.cli.common import console_of, json_option, print_json


@click.command()
@click.argument("name", required=False)
@json_option
def targets(name: str | None, as_json: bool) -> None:
    """Lists the targets; with NAME prints limits, numerics, costs and sources of one."""
    from snncompile.chip import load_target, target_names

    if name is not None:
        plain = load_target(name).model_dump(mode="json")
        return print_json(plain) if as_json else console_of().print(_yaml(plain), markup=False, highlight=False)
    chips = {target: load_target(target) for target in target_names()}
    if as_json:
        return print_json({target: chip.description for target, chip in chips.items()})
    for target, chip in chips.items():
        console_of().print(
            f"{target:<14} {chip.mesh.cores:>5} cores  {chip.description}", highlight=False, soft_wrap=True
        )
    return None


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, width=100)
    return text
