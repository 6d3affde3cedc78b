"""`snncompile export`."""

from pathlib import Path
from typing import Any

import click

from snncompile.cli.common import console_of, json_option, print_json
from snncompile.cli.compiling import input_shape_option
from snncompile.cli.reading import popped_reading, reading_options
from snncompile.errors import CompileError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .nir file to write.")
@input_shape_option
@reading_options
@click.option("--r-is-one", is_flag=True, help="The weights carry the neurons' r, for tools that ignore it (norse).")
@json_option
def export(
    model: Path, output: Path, input_shape: tuple[int, ...] | None, r_is_one: bool, as_json: bool, **options: Any
) -> None:
    """Writes MODEL (.pt, .nir, .net, or the folder of a compiled program) as NIR that other tools read.

    Neurons that NIR has become its own nodes; others stay nested graphs, which other tools run approximately and
    snncompile reads without loss.
    """
    from dataclasses import asdict

    from snncompile.contract import contract_lines
    from snncompile.frontend import load_model
    from snncompile.frontend.nir.export import exported
    from snncompile.frontend.nir.to_network import to_network
    from snncompile.frontend.nir.write import write_nir
    from snncompile.pipeline import run_passes
    from snncompile.sealed import NETWORK

    if output.suffix != ".nir":
        raise CompileError(str(output), "does not end in .nir", "NIR files do")
    source = model / NETWORK if model.is_dir() else model
    if not source.exists():
        raise CompileError(str(source), "no such file", "give a model, or the folder of a compiled program")
    reading = popped_reading(options)
    graph, told = exported(run_passes(to_network(load_model(source, input_shape, reading))), r_is_one)
    content = write_nir(graph)
    try:
        output.write_bytes(content)
    except OSError as error:
        raise CompileError(str(output), f"cannot be written ({error.strerror})") from None
    nodes = [asdict(node) for node in told]
    if as_json:
        return print_json({"file": str(output), "nodes": nodes})
    console = console_of()
    for line in contract_lines(nodes):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"wrote {output}, {len(graph.nodes)} nodes", soft_wrap=True, highlight=False)
    return None
