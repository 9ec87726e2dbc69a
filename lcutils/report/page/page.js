"use strict";
// Draws the figures, links them (one set of filters, one picked model), sorts the tables, runs the token explorer.
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
    if (explorer) explorer.draw();
  };
  byId("ground").addEventListener("click", () => setGround(ground === "dark" ? "light" : "dark"));
  wish.addEventListener("change", (event) => setGround(event.matches ? "dark" : "light"));

  // -------------------------------------------------------------------------------------------------------- figures
  const specs = new Map();
  const specOf = (name) => {
    if (!specs.has(name)) {
      const spec = read(`spec-${name}`);
      for (const param of spec.params || []) {
        // Filters are moved to the page's bar, where they hold for every figure.
        if (param.bind && (param.name.endsWith("_is") || param.name === "model_like")) {
          addControl(param);
          delete param.bind;
        }
      }
      specs.set(name, spec);
    }
    return specs.get(name);
  };
  const options = (renderer) => ({
    mode: "vega-lite", renderer, config: grounds[ground], tooltip: { theme: ground },
    actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
  });

  async function draw(drawing) {
    const name = drawing.dataset.name;
    const spec = structuredClone(specOf(name));
    const old = views.get(drawing);
    const made = await vegaEmbed(drawing, spec, options("svg"));
    if (old) old.finalize();
    const view = made.view;
    views.set(drawing, view);
    for (const [filter, value] of Object.entries(choices)) setSignal(view, filter, value);
    if (picked) setPicked(view, picked);
    if (hasSignal(view, "picked")) {
      view.addSignalListener("picked", (_, value) => {
        const model = value && value.model && value.model.length ? value.model[value.model.length - 1] : null;
        pick(model, view);
      });
    }
    await view.runAsync();
    drawing.dataset.drawn = "yes";
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
  document.addEventListener("click", (event) => {
    const head = event.target.closest("thead th");
    if (head) sortBy(head);
    const row = event.target.closest("tr[data-model]");
    if (row && !event.target.closest("a")) pick(row.dataset.model === picked ? null : row.dataset.model, null);
  });
  function sortBy(head) {
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const falls = head.dataset.order === "rises";
    for (const other of head.parentNode.cells) delete other.dataset.order;
    head.dataset.order = falls ? "falls" : "rises";
    const key = (row) => { const cell = row.cells[column]; return "value" in cell.dataset ? +cell.dataset.value : cell.textContent; };
    const missing = (value) => value === "" || Number.isNaN(value);
    const rows = [...body.rows].sort((a, b) => {
      const [u, v] = [key(a), key(b)];
      if (missing(u) || missing(v)) return missing(u) - missing(v);
      const order = typeof u === "number" && typeof v === "number" ? u - v : String(u).localeCompare(String(v));
      return falls ? -order : order;
    });
    body.append(...rows);
  }

  // ------------------------------------------------------------------------------------------------- token explorer
  const explorer = byId("explorer") ? makeExplorer(byId("explorer"), read("tokens-index")) : null;

  function makeExplorer(place, index) {
    const most = index.most;
    let table = null, chosen = -1, view = null, order = [];
    const part = (name) => place.querySelector(`[data-part=${name}]`);
    // A token of blanks alone would be invisible.
    const seen = (text) => text.trim() ? text : text.replaceAll(" ", "␣").replaceAll("\n", "⏎");
    const show = (text) => make("span", { className: "token mono", textContent: seen(text) });
    const format = (value) => value === null || value === undefined ? "not known"
      : Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toString();

    async function load(name) {
      const packed = Uint8Array.from(atob(byId(`tokens-${name}`).textContent.trim()), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      table = await new Response(stream).json();
      table.find = table.text.map((text) => text.trim().toLowerCase());
      order = table.text.map((_, i) => i).sort((a, b) => table.count[b] - table.count[a]);
      chosen = -1;
      search();
      await draw();
    }
    const columns = () => Object.keys(index.columns).filter((c) => table[c]);

    function search() {
      const wanted = part("token").value.trim().toLowerCase();
      const hits = { same: [], starts: [], holds: [] };
      for (const i of order) { // most frequent first
        const text = table.find[i];
        if (wanted && text === wanted) hits.same.push(i);
        else if (wanted && text.startsWith(wanted)) hits.starts.push(i);
        else if (text.includes(wanted)) hits.holds.push(i);
      }
      const found = [...hits.same, ...hits.starts, ...hits.holds];
      part("found").textContent = `${found.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} tokens` +
        (found.length > most ? `; the ${most} first are listed` : "");
      const body = part("hits").tBodies[0];
      body.replaceChildren(...found.slice(0, most).map((i) => {
        const row = make("tr", { onclick: () => choose(i) }, make("td", { className: "words" }, show(table.text[i])));
        for (const column of columns()) row.append(make("td", { textContent: table[column][i] === null ? "" : format(table[column][i]) }));
        row.dataset.token = i;
        return row;
      }));
      if (wanted && (hits.same.length || found.length === 1)) choose(found[0]);
    }

    function choose(i) {
      chosen = i;
      const facts = make("dl", { className: "facts" });
      for (const column of columns()) {
        facts.append(make("dt", { textContent: index.columns[column][0] }), make("dd", { textContent: format(table[column][i]) }));
      }
      if (table.total) facts.append(make("dt", { textContent: "validation features with this label" }), make("dd", { textContent: format(table.total[i]) }));
      const near = make("p", { className: "near" }, "Nearest class means: ");
      for (const id of table.nearest_ids ? table.nearest_ids[i] : []) {
        const to = table.token_id.indexOf(id);
        const text = to < 0 ? `id ${id}` : seen(table.text[to]);
        near.append(make("button", { type: "button", className: "mono", textContent: text, disabled: to < 0, onclick: () => choose(to) }));
      }
      part("card").replaceChildren(make("h3", {}, "Token ", show(table.text[i]), ` (id ${table.token_id[i]})`), facts, near);
      for (const row of part("hits").tBodies[0].rows) row.classList.toggle("chosen", +row.dataset.token === i);
      mark();
    }
    const row = (i) => Object.fromEntries([["text", table.text[i]], ["place", i], ...columns().map((c) => [c, table[c][i]])]);
    function mark() {
      if (view) view.data("chosen", chosen < 0 ? [] : [row(chosen)]).runAsync();
    }

    async function draw() {
      if (!table) return;
      const [x, y] = [part("x").value, part("y").value];
      const fits = (column, i) => Number.isFinite(table[column][i]) && (!index.columns[column][1] || table[column][i] > 0);
      const able = order.filter((i) => fits(x, i) && fits(y, i));
      const limit = index.limit, half = limit / 2;
      const step = Math.max(1, (able.length - half) / half);
      const cloud = able.length <= limit ? able : [...able.slice(0, half), ...Array.from({ length: half }, (_, k) => able[half + Math.floor(k * step)])];
      part("notice").textContent = `${cloud.length.toLocaleString("en")} of ${order.length.toLocaleString("en")} tokens are drawn` +
        (cloud.length < able.length ? ` (the ${half.toLocaleString("en")} most frequent, and every ${step.toFixed(1)}th of the others)` : "") +
        (able.length < order.length ? `; ${(order.length - able.length).toLocaleString("en")} have no value that these axes can show` : "") + ".";
      const channel = (column) => {
        const log = index.columns[column][1];
        const values = able.map((i) => table[column][i]);
        const ends = [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
        return { field: column, type: "quantitative", title: index.columns[column][0] + (log ? ", log scale" : ""),
          scale: { type: log ? "log" : "linear", domain: ends, nice: !log, padding: log ? 6 : 0 },
          axis: { tickCount: 5, labelOverlap: "greedy", titleFontWeight: "normal", titleFontSize: 11, labelFontSize: 11, titleLimit: 340 } };
      };
      const both = { x: channel(x), y: channel(y) };
      const tooltip = [{ field: "text", type: "nominal" }, ...columns().map((c) => ({ field: c, type: "quantitative", format: ".4g" }))];
      if (!able.length) { part("cloud").textContent = "No token has a value for both axes."; return; }
      const spec = {
        width: 380, height: 300,
        layer: [
          { data: { name: "cloud", values: cloud.map(row) }, mark: { type: "circle", size: 16, opacity: 0.45, color: index.colours[ground === "dark" ? 2 : 0] }, encoding: { ...both, tooltip } },
          { data: { name: "chosen", values: chosen < 0 ? [] : [row(chosen)] }, mark: { type: "circle", size: 130, opacity: 1, color: index.colours[1] }, encoding: { ...both, tooltip } },
          { data: { name: "chosen" }, mark: { type: "text", align: "left", dx: 9, fontSize: 13, color: ground === "dark" ? "#e8eaed" : "#1f2328" }, encoding: { ...both, text: { field: "text" } } },
        ],
      };
      const made = await vegaEmbed(part("cloud"), spec, options("canvas"));
      if (view) view.finalize();
      view = made.view;
      view.addEventListener("click", (_, item) => { if (item && item.datum && "place" in item.datum) choose(item.datum.place); });
      place.dataset.drawn = "yes";
    }

    part("token").addEventListener("input", () => table && search());
    for (const axis of ["x", "y"]) part(axis).addEventListener("change", draw);
    part("model").addEventListener("change", () => load(part("model").value));
    new IntersectionObserver((entries, self) => {
      if (entries.some((entry) => entry.isIntersecting)) { self.disconnect(); load(part("model").value); }
    }, { rootMargin: "400px" }).observe(place);
    return { draw };
  }
})();
