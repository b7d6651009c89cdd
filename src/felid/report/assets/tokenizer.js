"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figure-data");
  const items = read("item-data");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 560px)");
  const SHOWN = 200;
  const CHIPS = 60;

  // Figures take their colours from the page, again whenever the system's theme or the width class changes.
  function themed(layout) {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
      height: narrow.matches ? Math.min(layout.height, 460) : layout.height,
    };
  }

  function draw() {
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--card").trim();
    return Promise.all(
      figures.map(({ key, data, layout }) => {
        const traces = data.map((trace) =>
          trace.type === "treemap" ? { ...trace, level, marker: { ...trace.marker, line: { width: 1, color: colour } } } : trace
        );
        return Plotly.react(`plot-${key}`, traces, themed(layout), { responsive: true, displayModeBar: false });
      })
    );
  }

  // Items of a prefix. items.codes holds the IDs row by row, sorted, so a prefix is one stretch of rows.
  const levels = items.levels;
  const count = items.titles.length;
  const box = document.getElementById("prefix");
  const found = document.getElementById("found");
  const next = document.getElementById("next");
  const body = document.querySelector("#items tbody");
  let level = "";

  const codesOf = (row) => items.codes.slice(row * levels, (row + 1) * levels);

  function parse(text) {
    const parts = text.replace(/[^0-9]+/g, " ").trim();
    return parts ? parts.split(" ").map(Number) : [];
  }

  function compare(row, prefix) {
    for (let place = 0; place < prefix.length; place++) {
      const difference = items.codes[row * levels + place] - prefix[place];
      if (difference) return difference;
    }
    return 0;
  }

  function bound(prefix, after) {
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      const side = compare(middle, prefix);
      if (side < 0 || (after && side === 0)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function cell(row, text) {
    const element = document.createElement("td");
    element.textContent = text;
    row.append(element);
  }

  function chips(prefix, first, last) {
    next.replaceChildren();
    if (prefix.length >= levels || first === last) return;
    const groups = new Map();
    for (let row = first; row < last; row++) {
      const code = items.codes[row * levels + prefix.length];
      groups.set(code, (groups.get(code) || 0) + 1);
    }
    const sorted = [...groups].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    for (const [code, size] of sorted.slice(0, CHIPS)) {
      const button = document.createElement("button");
      const small = document.createElement("small");
      button.type = "button";
      small.textContent = ` ${size}`;
      button.append([...prefix, code].join("-"), small);
      button.addEventListener("click", () => search([...prefix, code].join("-")));
      next.append(button);
    }
    if (sorted.length > CHIPS) {
      const more = document.createElement("small");
      more.textContent = `and ${sorted.length - CHIPS} smaller`;
      next.append(more);
    }
  }

  function search(text) {
    if (box.value !== text) box.value = text;
    const prefix = parse(text);
    body.replaceChildren();
    if (prefix.length > levels) {
      next.replaceChildren();
      found.textContent = `${prefix.length} codes given, an ID has ${levels}.`;
      return;
    }
    const first = bound(prefix, false);
    const last = bound(prefix, true);
    const known = count < items.total ? ` of the ${count.toLocaleString()} drawn from ${items.total.toLocaleString()}` : "";
    const more = last - first > SHOWN ? `, the first ${SHOWN} below` : "";
    const what = prefix.length ? `with prefix ${prefix.join("-")}` : "in all";
    found.textContent = `${(last - first).toLocaleString()} item${last - first === 1 ? "" : "s"}${known} ${what}${more}.`;
    chips(prefix, first, last);
    for (let row = first; row < Math.min(last, first + SHOWN); row++) {
      const line = document.createElement("tr");
      cell(line, codesOf(row).join("-"));
      cell(line, String(items.ids[row]));
      cell(line, items.titles[row]);
      body.append(line);
    }
  }

  box.addEventListener("input", () => search(box.value));
  document.getElementById("clear").addEventListener("click", () => search(""));
  document.getElementById("up").addEventListener("click", () => search(parse(box.value).slice(0, -1).join("-")));
  search("");

  draw().then(() => {
    const tree = document.getElementById("plot-tree");
    tree.on("plotly_treemapclick", (event) => {
      const name = String(event.points[0].id);
      const inside = name.endsWith("…") ? name.replace(/-?…$/, "") : name;
      search(inside === "all" ? "" : inside);
      level = event.nextLevel === undefined ? level : event.nextLevel;
    });
    document.documentElement.dataset.ready = "true";
  });
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
