"use strict";
// Draws the figures, links them (one set of filters, one picked model), sorts the tables.
(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const grounds = read("grounds");
  const views = new Map(); // drawing element -> Vega view
  const choices = {}; // filter name -> chosen value
  let picked = null; // name of the picked model
  const root = document.documentElement;

  // ------------------------------------------------------------------------------------------------- light and dark
  const wish = window.matchMedia("(prefers-color-scheme: dark)");
  let ground = wish.matches ? "dark" : "light";
  root.dataset.ground = ground;
  const setGround = (name) => {
    ground = name;
    root.dataset.ground = name;
    for (const drawing of [...views.keys()]) draw(drawing);
  };
  byId("ground").addEventListener("click", () => setGround(ground === "dark" ? "light" : "dark"));
  wish.addEventListener("change", (event) => setGround(event.matches ? "dark" : "light"));

  // -------------------------------------------------------------------------------------------------------- figures
  const specs = new Map();
  const specOf = (name) => {
    if (!specs.has(name)) specs.set(name, unpack(name));
    return specs.get(name);
  };
  function unpacked(id) {
    const packed = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  }
  // Vega, Vega-Lite and vega-embed: a script that runs as it is put into the page.
  const vega = unpacked("vega").text().then((text) => document.head.append(make("script", { textContent: text })));
  async function unpack(name) {
    const spec = await unpacked(`spec-${name}`).json();
    for (const param of spec.params || []) {
      // Filters are moved to the page's bar, where they hold for every figure.
      if (param.bind && (param.name.endsWith("_is") || param.name === "model_like")) {
        addControl(param);
        delete param.bind;
      }
    }
    return spec;
  }
  const options = () => ({
    mode: "vega-lite", renderer: "svg", config: grounds[ground], tooltip: { theme: ground },
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
  });

  async function draw(drawing) {
    const name = drawing.dataset.name;
    await vega;
    const spec = structuredClone(await specOf(name));
    const old = views.get(drawing);
    const { view } = await vegaEmbed(drawing, spec, options());
    views.set(drawing, view);
    if (old) {
      keepChoices(spec, old, view);
      old.finalize();
    }
    for (const [filter, value] of Object.entries(choices)) setSignal(view, filter, value);
    if (picked) setPicked(view, picked);
    if (hasSignal(view, "picked")) {
      view.addSignalListener("picked", (_, value) => {
        const model = value && value.model && value.model.length ? value.model[value.model.length - 1] : null;
        pick(model, view);
      });
    }
    await view.runAsync();
    const long = drawing.querySelector("svg.marks").height.baseVal.value > 1400; // several sheets of paper
    drawing.classList.toggle("long", long);
    if (long) drawing.append(inSheets(drawing.querySelector("svg.marks"), drawing.id));
    drawing.dataset.drawn = "yes";
  }

  // A long figure is printed as strips of whole rows of panels, each a window onto the picture on the screen.
  function inSheets(svg, name) {
    const { width, height } = svg.viewBox.baseVal;
    const most = 900 * Math.max(1, width / 700); // of a sheet, in the picture's units
    const shown = svg.getBoundingClientRect();
    const unit = height / shown.height;
    const blocks = [...svg.querySelectorAll(".root > g > g > .role-scope > g, .root > g > g > .role-legend")]
      .map((node) => node.getBoundingClientRect()).sort((a, b) => a.top - b.top);
    const gaps = []; // between one row and the next
    let end = shown.bottom; // of the row so far
    blocks.forEach((block, i) => {
      if (i && block.top > end) gaps.push(Math.round(((block.top + end) / 2 - shown.top) * unit));
      end = i ? Math.max(end, block.bottom) : block.bottom;
    });
    const cuts = [0];
    gaps.forEach((gap, i) => { if ((gaps[i + 1] ?? height) - cuts.at(-1) > most) cuts.push(gap); });
    svg.firstElementChild.id = `picture-${name}`;
    const sheets = make("div", { className: "sheets" });
    cuts.forEach((top, i) => {
      const strip = svg.cloneNode(false);
      strip.removeAttribute("class");
      strip.setAttribute("viewBox", `0 ${top} ${width} ${(cuts[i + 1] ?? height) - top}`);
      strip.setAttribute("height", (cuts[i + 1] ?? height) - top);
      strip.append(document.createElementNS(svg.namespaceURI, "use"));
      strip.firstChild.setAttribute("href", `#picture-${name}`);
      sheets.append(strip);
    });
    return sheets;
  }

  // What a reader has set in a figure (its own fields, a clicked token) outlives a change of ground or model.
  function keepChoices(spec, old, view) {
    for (const param of spec.params || []) {
      if (param.bind && hasSignal(old, param.name)) setSignal(view, param.name, old.signal(param.name));
    }
    try { view.data("chosen_store", old.data("chosen_store")); } catch { /* this figure has no tokens to choose */ }
  }

  const hasSignal = (view, name) => { try { view.signal(name); return true; } catch { return false; } };
  const setSignal = (view, name, value) => { if (hasSignal(view, name)) view.signal(name, value); };
  const setPicked = (view, model) => {
    try {
      view.data("picked_store", model === null ? [] : [{ unit: "", fields: [{ type: "E", field: "model" }], values: [model] }]);
    } catch { /* this figure has no models to pick */ }
  };

  function pick(model, source) {
    if (model === picked) return;
    picked = model;
    for (const view of views.values()) {
      if (view !== source) { setPicked(view, model); view.runAsync(); }
    }
    for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
    const words = byId("picked");
    words.replaceChildren();
    if (model === null) return;
    const rows = [...document.querySelectorAll("tr[data-model]")].filter((row) => row.dataset.model === model);
    for (const row of rows) row.classList.add("chosen");
    words.append("picked ", make("strong", { textContent: model }), " ");
    for (const row of rows.filter((row) => row.id)) words.append(make("a", { href: `#${row.id}`, textContent: `row @${row.dataset.checkpoint}` }), " ");
    words.append(make("button", { type: "button", textContent: "let go", onclick: () => pick(null, null) }));
  }

  function addControl(param) {
    if (param.name in choices) return;
    choices[param.name] = param.value;
    const bind = param.bind;
    const label = make("label", {}, bind.name);
    const set = (value) => {
      choices[param.name] = value;
      for (const view of views.values()) { setSignal(view, param.name, value); view.runAsync(); }
    };
    if (bind.options) {
      const select = make("select", { name: param.name });
      for (const option of bind.options) select.append(make("option", { textContent: option }));
      select.addEventListener("change", () => set(bind.options[select.selectedIndex]));
      label.append(select);
    } else {
      const field = make("input", { type: "search", name: param.name, size: 14, placeholder: bind.placeholder || "" });
      field.addEventListener("input", () => set(field.value.trim()));
      label.append(field);
    }
    byId("controls").append(label);
  }

  const drawings = [...document.querySelectorAll(".drawing")];
  byId("bar").hidden = false;
  const first = drawings.slice(0, 3).map((drawing) => drawing.dataset.name);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !views.has(entry.target)) { seen.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "400px" });
  for (const name of first) specOf(name); // the bar is whole before the first figure is scrolled to
  for (const drawing of drawings) seen.observe(drawing);
  byId("print").addEventListener("click", async () => {
    root.dataset.ground = ground = "light";
    await Promise.all(drawings.map(draw));
    window.print();
  });
  window.addEventListener("beforeprint", () => drawings.forEach((drawing) => views.has(drawing) || draw(drawing)));

  // A figure with a choice of measurements is one drawing whose name changes.
  for (const select of document.querySelectorAll("select[data-switches]")) {
    const drawing = byId(select.dataset.switches);
    select.addEventListener("change", () => {
      drawing.dataset.name = select.value;
      byId(`${drawing.id}-caption`).textContent = select.selectedOptions[0].dataset.caption;
      draw(drawing);
    });
  }

  // --------------------------------------------------------------------------------------------------------- tables
  // On paper a wide table is one paragraph for each row, whose cells bear their columns' names.
  for (const box of document.querySelectorAll(".wide")) {
    const names = [...box.querySelectorAll("th")].map((head) => head.textContent);
    for (const row of box.querySelectorAll("tbody tr")) [...row.cells].forEach((cell, i) => { cell.dataset.name = names[i]; });
    box.classList.add("named");
  }
  document.addEventListener("click", (event) => {
    const head = event.target.closest("thead th");
    if (head) sortBy(head);
    const row = event.target.closest("tr[data-model]");
    if (row && !event.target.closest("a")) pick(row.dataset.model === picked ? null : row.dataset.model, null);
  });
  // As people read them: 12,345 and −1.5e−14 and ∞.
  const numberOf = (text) => +text.replaceAll(",", "").replaceAll("−", "-").replace("∞", "Infinity");
  function sortBy(head) {
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const falls = head.dataset.order === "rises";
    for (const other of head.parentNode.cells) delete other.dataset.order;
    head.dataset.order = falls ? "falls" : "rises";
    const key = (row) => {
      const cell = row.cells[column];
      return cell.className || !cell.textContent ? cell.textContent : numberOf(cell.textContent);
    };
    const missing = (value) => value === "" || Number.isNaN(value);
    const rows = [...body.rows].sort((a, b) => {
      const [u, v] = [key(a), key(b)];
      if (missing(u) || missing(v)) return missing(u) - missing(v);
      const order = typeof u === "number" && typeof v === "number" ? u - v : String(u).localeCompare(String(v));
      return falls ? -order : order;
    });
    body.append(...rows);
  }
})();
