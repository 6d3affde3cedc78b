"""Results that show themselves: as text, in a notebook, and as a page."""

import io
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from snncompile.program import Program
from snncompile.report.diff_text import print_diff
from snncompile.report.figures import Figure, raster_figures
from snncompile.report.page import figures as figures_of
from snncompile.report.page import fragment, html_page, write_page
from snncompile.report.recorded import Recorded
from snncompile.report.terminal import print_report
from snncompile.report.text import number
from snncompile.report.verification import print_verification

if TYPE_CHECKING:
    import plotly.graph_objects as go

Result = Mapping[str, Any]


def _text(say: Callable[[Console], None]) -> str:
    console = Console(file=io.StringIO(), width=160)
    say(console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


class ReportView:
    """A program's report, with a run and a verification where there are some."""

    def __init__(
        self, content: Result, program: Program, recorded: Recorded | None = None, proof: Result | None = None
    ) -> None:
        self.content, self._program, self._recorded, self._proof = content, program, recorded, proof

    def __str__(self) -> str:
        return _text(lambda console: print_report(self.content, console))

    def html(self) -> str:
        """The whole page, self-contained (`snncompile report --html`)."""
        return html_page(self.content, self._program, self._recorded, self._proof)

    def save(self, path: str | Path) -> Path:
        """Writes the page."""
        write_page(Path(path), self.html())
        return Path(path)

    @cached_property
    def figures(self) -> "dict[str, go.Figure]":
        """The figures of the page, by name, as Plotly's own."""
        drawn = list(figures_of(self.content, self._program, self._recorded).values())
        drawn += [] if self._recorded is None else raster_figures(self._recorded)
        return {figure.name: plotly_figure(figure) for figure in drawn}

    def _repr_html_(self) -> str:
        return fragment(self.content, self._program, self._recorded, self._proof)

    def _ipython_display_(self) -> None:
        """Summary and tables, then the figures."""
        from IPython.display import HTML, display  # noqa: PLC0415 - only there is a notebook

        display(HTML(self._repr_html_()))
        for figure in self.figures.values():
            display(figure)


def plotly_figure(figure: Figure) -> "go.Figure":
    """A figure of the page as Plotly's own; the views of a map in a menu."""
    import plotly.graph_objects as go  # noqa: PLC0415 - only where figures are shown

    buttons = [
        {
            "label": view.label,
            "method": "restyle",
            "args": [{"z": [view.values], "zmax": view.most, "colorbar.title.text": view.unit}],
        }
        for view in figure.views
    ]
    menus = {"updatemenus": [{"buttons": buttons}]} if buttons else {}
    return go.Figure({"data": figure.data, "layout": {"title": {"text": figure.title}, **figure.layout, **menus}})


def _plain_table(rows: list[tuple[str, str]]) -> str:
    from html import escape  # noqa: PLC0415

    lines = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


class RunView:
    """What `run --json` prints, as text and as a table."""

    def __init__(self, summary: Result) -> None:
        self.summary = summary

    def rows(self) -> list[tuple[str, str]]:
        run = self.summary
        energy, accuracy = run["energy_uj_per_inference"], run["accuracy"]
        band = "" if energy is None else f" ({number(energy['low'])} to {number(energy['high'])})"
        return [
            ("samples", f"{run['samples']:,} on {run['backend']}"),
            ("accuracy", "unknown" if accuracy is None else f"{100 * accuracy:.2f} %"),
            ("energy per inference, uJ", "unknown" if energy is None else number(energy["nominal"]) + band),
            ("latency, us", number(run["latency_us_per_inference"])),
            ("synaptic operations", number(run["synops_per_inference"])),
            ("spikes", number(run["spikes_per_inference"])),
            ("packets", number(run["packets_per_inference"])),
            ("inferences per second on the chip", number(run["inferences_per_s_on_chip"])),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<34} {value}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        return _plain_table(self.rows())


class VerificationView:
    """What `verify --json` prints. equal: whether the stages that must be equal are; None: not asked."""

    def __init__(self, result: Result) -> None:
        self.result = result

    @property
    def equal(self) -> bool | None:
        equal: bool | None = self.result["equal"]
        return equal

    def __str__(self) -> str:
        return _text(lambda console: print_verification(dict(self.result), console))

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415

        return f"<pre>{escape(str(self))}</pre>"


class DiffView:
    """What `diff --json` prints."""

    def __init__(self, result: Result) -> None:
        self.result = result

    def __str__(self) -> str:
        return _text(lambda console: print_diff(self.result, console))

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415

        return f"<pre>{escape(str(self))}</pre>"
