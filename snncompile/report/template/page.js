"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const shown = {};
  const root = document.documentElement;
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  const layoutOf = (figure) => {
    const style = getComputedStyle(root);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const themed = { gridcolor: line, zerolinecolor: line, linecolor: line };
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
      margin: { l: 60, r: 20, t: 20, b: 50 }, ...figure.layout,
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) layout[axis] = { ...themed, ...layout[axis] };
    return layout;
  };

  const dataOf = (figure, number) => {
    const view = figure.views[number];
    if (!view) return figure.data;
    const [map] = figure.data;
    const colorbar = { ...map.colorbar, title: { ...map.colorbar.title, text: view.unit } };
    const hovertemplate = `%{text}<br>%{z:,.5~g} ${view.unit}<extra></extra>`;
    return [{ ...map, z: view.z, zmax: view.zmax, colorbar, hovertemplate }];
  };

  const draw = (place, name, view = 0) => {
    shown[place] = [name, view];
    return Plotly.react(place, dataOf(figures[name], view), layoutOf(figures[name]), config);
  };
  const again = () => Object.entries(shown).forEach(([place, [name, view]]) => draw(place, name, view));

  const choose = (tab) => {
    for (const other of tab.parentElement.children) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    draw(`plot-${tab.dataset.figure}`, tab.dataset.figure, Number(tab.dataset.view));
  };
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const tabs = [...tab.parentElement.children];
      const at = tabs.indexOf(tab);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  }

  const button = document.getElementById("theme");
  const setTheme = (dark) => {
    root.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches);
  dark.addEventListener("change", () => { setTheme(dark.matches); again(); });
  button.addEventListener("click", () => { setTheme(root.dataset.theme !== "dark"); again(); });

  let before = "light";
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme(false);
    again();
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => { setTheme(before === "dark"); again(); });

  for (const plot of document.querySelectorAll(".plot[data-figure]")) draw(plot.id, plot.dataset.figure);
  const choice = document.getElementById("layer-choice");
  if (choice) {
    choice.addEventListener("change", () => draw("plot-spikes", choice.value));
    draw("plot-spikes", choice.value);
  }
  root.dataset.ready = "true";
})();
