"use strict";
// Draws the page's figures in the colours of its theme, again whenever the system's theme or the size of the window changes.
const figures = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const root = document.documentElement;
  const data = read("figure-data");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const PHONE = 560;
  const PAPER = 690; // pixels, of a sheet of A4 between its margins
  const opened = {}; // the open node of each tree

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const isTree = (traces) => traces[0].type === "treemap";

  // A figure is as wide as its place, and higher by the rows of its legend.
  function sizeOf(element, layout, traces) {
    const width = "paper" in root.dataset ? PAPER : element.clientWidth;
    const isNarrow = width < PHONE - 100 && window.innerWidth <= PHONE;
    const entries = layout.showlegend ? traces.filter((trace) => trace.showlegend !== false).length : 0;
    const rows = isTree(traces) ? Math.ceil(entries / (isNarrow ? 2 : 8)) - 1 : isNarrow ? entries - 2 : Math.ceil(entries / 2) - 2;
    return { width, height: Math.min(layout.height, isNarrow ? 460 : Infinity) + 19 * Math.max(0, rows) };
  }

  function themed(layout) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
    };
  }

  function plot({ key, data: traces, layout }) {
    const element = document.getElementById(`plot-${key}`);
    const line = { width: 1, color: colour("--card") };
    const shown = isTree(traces)
      ? traces.map((trace, place) => (place ? trace : { ...trace, level: opened[key] || "", marker: { ...trace.marker, line } }))
      : traces;
    return Plotly.react(element, shown, { ...themed(layout), ...sizeOf(element, layout, traces) }, { displayModeBar: false });
  }

  async function draw() {
    for (const one of data) {
      await plot(one);
      await new Promise((next) => setTimeout(next)); // the page can be read and scrolled meanwhile
    }
  }

  const drawn = draw().then(() => {
    for (const { key, data: traces } of data) {
      if (isTree(traces)) {
        document.getElementById(`plot-${key}`).on("plotly_treemapclick", (event) => {
          opened[key] = event.nextLevel === undefined ? opened[key] : event.nextLevel;
        });
      }
    }
  });

  let last = drawn;
  let waiting = 0;
  let width = window.innerWidth;
  function again() {
    clearTimeout(waiting);
    waiting = setTimeout(() => (last = last.then(draw)), 100);
  }
  dark.addEventListener("change", again);
  window.addEventListener("resize", () => {
    if (window.innerWidth !== width) again(); // a phone changes the height whenever its address bar comes and goes
    width = window.innerWidth;
  });

  // Paper is light, and what is folded is printed too. There is no time to wait in between.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    root.dataset.paper = "";
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
    data.forEach(plot);
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.paper;
    for (const one of folded) one.open = false;
    again();
  });

  drawn.then(() => setTimeout(() => (root.dataset.ready = "true")));
  return { read, drawn };
})();
