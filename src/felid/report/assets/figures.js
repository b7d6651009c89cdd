"use strict";
// Draws the page's figures in the colours of its theme, again whenever the system's theme, the width class or the medium changes.
const figures = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("figure-data");
  const queries = ["(prefers-color-scheme: dark)", "(max-width: 560px)", "print"].map((query) => window.matchMedia(query));
  const narrow = queries[1];
  const opened = {}; // the open node of each tree

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout, traces) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    const entries = layout.showlegend ? traces.filter((trace) => trace.showlegend !== false).length : 0;
    const more = 22 * Math.max(0, Math.ceil(entries / 2) - 1); // a narrow legend has two columns
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
      height: narrow.matches ? Math.min(layout.height, 460) + more : layout.height,
    };
  }

  async function draw() {
    for (const { key, data: traces, layout } of data) {
      const shown = traces.map((trace) =>
        trace.type === "treemap"
          ? { ...trace, level: opened[key] || "", marker: { ...trace.marker, line: { width: 1, color: colour("--card") } } }
          : trace
      );
      await Plotly.react(`plot-${key}`, shown, themed(layout, traces), { responsive: true, displayModeBar: false });
      await new Promise((next) => setTimeout(next)); // the page can be read and scrolled meanwhile
    }
  }

  const drawn = draw().then(() => {
    for (const { key, data: traces } of data) {
      if (traces[0].type === "treemap") {
        document.getElementById(`plot-${key}`).on("plotly_treemapclick", (event) => {
          opened[key] = event.nextLevel === undefined ? opened[key] : event.nextLevel;
        });
      }
    }
  });
  let last = drawn;
  for (const query of queries) query.addEventListener("change", () => (last = last.then(draw)));

  // What is folded is printed too.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });

  drawn.then(() => setTimeout(() => (document.documentElement.dataset.ready = "true")));
  return { read, drawn };
})();
