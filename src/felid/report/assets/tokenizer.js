(() => {
  const items = figures.read("item-data");
  const SHOWN = 200;
  const CHIPS = 60;

  // Items of a prefix. items.codes holds the IDs row by row, sorted, so a prefix is one stretch of rows.
  const levels = items.levels;
  const count = items.titles.length;
  const box = document.getElementById("prefix");
  const found = document.getElementById("found");
  const next = document.getElementById("next");
  const body = document.querySelector("#items tbody");

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

  figures.drawn.then(() => {
    document.getElementById("plot-tree").on("plotly_treemapclick", (event) => {
      const name = String(event.points[0].id);
      const inside = name.endsWith("…") ? name.replace(/-?…$/, "") : name;
      search(inside === "all" ? "" : inside);
    });
  });
})();
