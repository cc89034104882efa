"use strict";
// Asks the server again and again, and shows what has changed. Texts are put in as texts, never as HTML; the drawing of a graph is the server's own.
const EVERY = 2500, COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
const STARTS = 6;  // runs with curves where none is chosen
const main = document.getElementById("main"), state = document.getElementById("state");
const chosen = new Set();
let filter = "", sort = "-changed", paused = false, timer = 0, turn = 0;
const kept = new Map();  // address -> {tag, data}

history.replaceState(null, "", location.pathname + location.hash);  // the token is in a cookie now

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

async function ask(path, parameters = []) {
  const address = path + (parameters.length ? "?" + new URLSearchParams(parameters) : "");
  const before = kept.get(address);
  const got = await fetch(address, { cache: "no-store", headers: before ? { "If-None-Match": before.tag } : {} });
  if (got.status === 304) return { data: before.data, fresh: false };
  const data = await got.json();
  if (!got.ok) throw new Error(data.error || got.statusText);
  if (kept.size > 60) kept.clear();
  kept.set(address, { tag: got.headers.get("ETag"), data });
  return { data, fresh: true };
}

function number(value) {
  if (value === null || value === undefined || value === "") return "-";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 0.001 && Math.abs(value) < 1e5 ? String(+value.toPrecision(4)) : value.toExponential(2);
}
const bytes = (value) => value == null ? "-" : (value / 2 ** 30).toFixed(1) + " GiB";
const share = (value) => value == null ? "-" : Math.round(100 * value) + "%";
const link = (kind, name) => `#/${kind}/${encodeURIComponent(name)}`;
const said = (status) => el("span", { class: String(status).replace(" ", "_") }, String(status).replaceAll("_", " "));

function table(heads, rows) {
  return el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows)));
}

// A report's Markdown, of which there are headings, tables, paragraphs and `code`; its title is the page's own.
function prose(markdown) {
  const plain = (text) => text.replaceAll("&#124;", "|");
  const inline = (text) => text.split("`").map((part, n) => n % 2 ? el("code", {}, part) : part);
  const cells = (line, name) => el("tr", {}, ...line.slice(2, -2).split(" | ").map((cell) => el(name, { class: "text" }, plain(cell))));
  return markdown.trim().split(/\n{2,}/).filter((block) => !block.startsWith("# ")).map((block) => {
    if (block.startsWith("## ")) return el("h3", {}, block.slice(3));
    if (!block.startsWith("| ")) return el("p", {}, ...inline(block));
    const [head, , ...lines] = block.split("\n");
    return el("div", { class: "wide" }, el("table", {}, el("thead", {}, cells(head, "th")), el("tbody", {}, ...lines.map((line) => cells(line, "td")))));
  });
}

// Curves: name -> [[step, value or null]].
function curves(title, lines) {
  const W = 460, H = 220, L = 52, R = 8, T = 8, B = 26, names = Object.keys(lines);
  const all = names.flatMap((name) => lines[name].filter((point) => point[1] !== null));
  if (!all.length) return null;
  const span = (place) => {
    let low = Infinity, high = -Infinity;
    for (const point of all) { low = Math.min(low, point[place]); high = Math.max(high, point[place]); }
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  };
  const [x0, x1] = span(0), [y0, y1] = span(1);
  const x = (v) => L + (W - L - R) * (v - x0) / (x1 - x0), y = (v) => H - B - (H - T - B) * (v - y0) / (y1 - y0);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const draw = (name, attributes, text) => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title} over steps, from ${number(y0)} to ${number(y1)}`);
  for (let n = 0; n < 5; n++) {
    const v = y0 + (y1 - y0) * n / 4;
    draw("line", { x1: L, x2: W - R, y1: y(v), y2: y(v), stroke: "#e6e6e6" });
    draw("text", { x: L - 5, y: y(v) + 4, "text-anchor": "end", "font-size": 11, fill: "#444" }, number(v));
  }
  const ticks = [...new Set([0, 1, 2, 3, 4].map((n) => Math.round(x0 + (x1 - x0) * n / 4)))].filter((s) => s >= x0 && s <= x1);
  ticks.forEach((s) => draw("text", { x: x(s), y: H - 8, "text-anchor": x(s) > W - 40 ? "end" : "middle", "font-size": 11, fill: "#444" }, number(s)));
  names.forEach((name, place) => {
    let path = "", pen = false;
    for (const [step, value] of lines[name]) {
      if (value === null) { pen = false; continue; }
      path += `${pen ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = true;
    }
    draw("path", { d: path, fill: "none", stroke: COLORS[place % COLORS.length], "stroke-width": 1.6 });
    if (lines[name].length <= 20)
      for (const [step, value] of lines[name]) if (value !== null) draw("circle", { cx: x(step), cy: y(value), r: 2.4, fill: COLORS[place % COLORS.length] });
  });
  const legend = names.map((name, place) => {
    const points = lines[name].filter((point) => point[1] !== null), last = points[points.length - 1];
    const color = el("i");
    color.style.background = COLORS[place % COLORS.length];
    return el("li", {}, color, name, last ? `: ${number(last[1])} at step ${number(last[0])}` : "");
  });
  return el("figure", {}, el("figcaption", {}, title), svg, el("ul", { class: "legend" }, ...legend));
}

function figures(found) {
  const keys = new Map();
  for (const [run, lines] of Object.entries(found.runs))
    for (const [key, points] of Object.entries(lines)) keys.set(key, { ...(keys.get(key) || {}), [run]: points });
  const first = (key) => key.startsWith("eval/") ? 0 : key === "train/loss" ? 1 : 2;
  const order = [...keys.keys()].sort((a, b) => first(a) - first(b) || a.localeCompare(b));
  const drawn = (some) => el("div", { class: "curves" }, ...some.map((key) => curves(key, keys.get(key))));
  const rest = order.filter((key) => first(key) === 2);
  const parts = [drawn(order.filter((key) => first(key) < 2))];
  if (rest.length) parts.push(el("details", { "data-key": "more" }, el("summary", {}, `${rest.length} more of training`), drawn(rest)));
  if (found.missing.length) parts.push(el("p", { class: "quiet" }, `Not to be read: ${found.missing.join(", ")}.`));
  if (found.left_out) parts.push(el("p", { class: "quiet" }, `${found.left_out} more runs are chosen, and are not drawn.`));
  return order.length ? parts : [el("p", { class: "quiet" }, "No curves yet.")];
}

function head(name, title) {
  const by = sort.replace("-", "") === name, down = by && sort.startsWith("-");
  const button = el("button", { "data-key": "sort " + name, onclick: () => { sort = by && !down ? "-" + name : name; show(); } }, title + (by ? (down ? " ↓" : " ↑") : ""));
  return el("th", { class: name === "name" || name === "state" ? "text" : false, "aria-sort": by ? (down ? "descending" : "ascending") : false }, button);
}

async function runsPage() {
  const found = await ask("api/runs", [["where", filter], ["sort", sort]]);
  const rows = found.data.rows;
  const there = new Set(rows.map((row) => row.name)), picked = [...chosen].filter((name) => there.has(name));
  const drawn = picked.length ? picked : rows.slice(0, STARTS).map((row) => row.name);
  const lines = drawn.length ? await ask("api/curves", drawn.map((name) => ["name", name])) : { data: { runs: {}, missing: [], left_out: 0 }, fresh: false };
  return [found.fresh || lines.fresh, () => {
    const columns = Object.keys(found.data.columns).filter((name) => ["name", "state", "step"].includes(name) || rows.some((row) => row[name] !== null && row[name] !== ""));
    const box = (row) => el("input", { type: "checkbox", "aria-label": `curves of ${row.name}`, "data-key": "box " + row.name, tabindex: -1,
      onchange: (event) => { event.target.checked ? chosen.add(row.name) : chosen.delete(row.name); show(); } });
    const cell = (row, name) => name === "name" ? el("td", { class: "text" }, el("a", { href: link("run", row.name), "data-key": "row " + row.name, class: "row" }, row.name))
      : name === "state" ? el("td", { class: "text" }, said(row.state)) : el("td", {}, number(row[name]));
    const listed = rows.map((row) => {
      const check = box(row);
      check.checked = chosen.has(row.name);
      return el("tr", {}, el("td", {}, check), ...columns.map((name) => cell(row, name)));
    });
    const input = el("input", { type: "text", value: filter, placeholder: "state=running and tune.lora.rank<16", "aria-label": "Filter", "data-key": "filter", spellcheck: "false" });
    const form = el("form", { class: "filter", onsubmit: (event) => { event.preventDefault(); filter = input.value; show(); } }, input, el("button", {}, "Filter"));
    const shown = rows.length < found.data.found ? `the first ${rows.length} of ${found.data.found}` : `${found.data.found}`;
    return [el("h1", {}, "Runs"), form, el("p", { class: "quiet" }, `${shown} of ${found.data.all} runs. Curves: ${picked.length ? "those chosen" : "the first " + drawn.length} (x chooses).`),
      table([el("th", {}), ...columns.map((name) => head(name, found.data.columns[name]))], listed), el("h2", {}, "Curves"), ...figures(lines.data)];
  }];
}

async function runPage(name) {
  const found = await ask("api/run", [["name", name]]), lines = await ask("api/curves", [["name", name]]);
  return [found.fresh || lines.fresh, () => {
    const run = found.data, pairs = (facts) => el("dl", {}, ...Object.entries(facts).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, key === "state" ? said(value) : number(value))]));
    const samples = run.samples.map((one) => [el("p", { class: "quiet" }, `step ${one.step}`), el("pre", {}, el("b", {}, one.prompt || ""), one.text || "")]).flat();
    return [el("h1", {}, run.name), pairs(run.summary), el("h2", {}, "Curves"), ...figures(lines.data), el("h2", {}, "Samples"), ...(samples.length ? samples : [el("p", { class: "quiet" }, "None.")]),
      ...(run.log ? [el("h2", {}, "Log"), el("pre", { tabindex: 0, class: "log", "data-key": "log" }, run.log)] : []),
      el("details", { "data-key": "facts" }, el("summary", {}, "Settings, and all that its summary says"), pairs(run.facts))];
  }];
}

const counted = (counts) => Object.entries(counts).map(([status, count]) => `${count} ${status.replaceAll("_", " ")}`).join(", ");

async function experimentsPage() {
  const found = await ask("api/experiments");
  return [found.fresh, () => {
    const rows = found.data.experiments.map((one) => el("tr", {},
      el("td", { class: "text" }, el("a", { href: link("experiment", one.name), class: "row", "data-key": "row " + one.name }, one.name)),
      el("td", { class: "text" }, said(one.running ? "running" : "at rest")), el("td", { class: "text" }, counted(one.nodes)), el("td", { class: "prose" }, one.question || "-")));
    return [el("h1", {}, "Experiments"), rows.length ? table(["experiment", "state", "nodes", "question"].map((title) => el("th", { class: "text" }, title)), rows)
      : el("p", { class: "quiet" }, "None in this folder: ptft sweep and ptft experiment make some.")];
  }];
}

async function experimentPage(name) {
  const found = await ask("api/experiment", [["name", name]]), one = found.data;
  const runs = one.nodes.filter((node) => node.run).map((node) => node.run);
  const lines = runs.length ? await ask("api/curves", runs.map((run) => ["name", run]).slice(0, 12)) : { data: { runs: {}, missing: [], left_out: 0 }, fresh: false };
  return [found.fresh || lines.fresh, () => {
    const drawing = el("div", { class: "graph", tabindex: 0, "data-key": "graph", role: "group", "aria-label": "graph of runs" });
    drawing.innerHTML = one.graph;
    const log = (node) => el("button", { "data-key": "log " + node.name, onclick: async () => {
      const got = await ask("api/log", [["experiment", one.name], ["node", node.name]]);
      const shown = document.getElementById("log");
      shown.textContent = got.data.log || "It said nothing.";
      shown.focus();
    } }, "log");
    const rows = one.nodes.map((node) => el("tr", {},
      el("td", { class: "text" }, node.run ? el("a", { href: link("run", node.run), class: "row", "data-key": "row " + node.name }, node.name) : node.name),
      el("td", { class: "text" }, node.kind), el("td", { class: "text" }, said(node.status)), el("td", {}, node.seconds == null ? "-" : node.seconds.toFixed(1)), el("td", {}, log(node)), el("td", { class: "prose" }, node.message)));
    const page = "report?" + new URLSearchParams([["experiment", one.name]]);
    const left = Math.max(runs.length - 12, 0);
    return [el("h1", {}, one.question || one.name), el("p", {}, said(one.running ? "running" : "at rest"), `: ${counted(one.counts)}. `, one.page ? el("a", { href: page, target: "_blank", rel: "noopener" }, "The report of the last launch that ended") : ""),
      ...(one.report ? [el("details", { "data-key": "report", open: !one.running }, el("summary", {}, "Answer"), ...prose(one.report))] : []),
      el("h2", {}, "Graph"), drawing, el("h2", {}, "Curves"), ...figures(lines.data), ...(left ? [el("p", { class: "quiet" }, `Of the first 12 runs; ${left} more are not drawn.`)] : []),
      el("h2", {}, "Nodes"), table(["node", "kind", "status", "seconds", "", "message"].map((title, n) => el("th", { class: n === 3 ? false : "text" }, title)), rows),
      ...(one.left_out ? [el("p", { class: "quiet" }, `${one.left_out} more nodes are not listed.`)] : []), el("h2", {}, "Log"), el("pre", { id: "log", tabindex: 0, "data-key": "text" }, "Choose a node's log above.")];
  }];
}

async function machine() {
  const use = (await ask("api/machine")).data;
  const gpus = use.gpus.map((gpu) => `GPU ${gpu.name} ${share(gpu.use)}, ${bytes(gpu.memory)} of ${bytes(gpu.memory_total)}`);
  document.getElementById("machine").textContent = [`CPU ${share(use.cpu)} of ${use.cpus}`, `memory ${bytes(use.memory)} of ${bytes(use.memory_total)}`, ...gpus].join(" · ");
}

const PAGES = { "": runsPage, experiments: experimentsPage, run: runPage, experiment: experimentPage };
let last = "";

async function show(force = true) {
  clearTimeout(timer);
  const mine = ++turn, place = location.hash.replace(/^#\/?/, ""), [kind, ...rest] = place.split("/");
  try {
    const [fresh, made] = await (PAGES[kind] || runsPage)(decodeURIComponent(rest.join("/")));
    if (mine !== turn) return;  // something else was asked for meanwhile
    if (fresh || force || place !== last) render(made(), place !== last);
    last = place;
    await machine();
    state.className = "";
    state.textContent = paused ? "Paused: p goes on." : "";
  } catch (error) {
    if (mine !== turn) return;
    state.className = "wrong";
    state.textContent = error instanceof TypeError ? "The dashboard does not answer: it has ended, or this machine is not reached." : error.message;
  }
  if (mine === turn && !paused) timer = setTimeout(tick, EVERY);
}

function tick() {
  if (document.hidden) timer = setTimeout(tick, EVERY);  // nobody looks
  else show(false);
}

// Puts a page in, with what is in focus, open, chosen and scrolled to as it was.
function render(parts, other) {
  const active = document.activeElement, key = active?.dataset?.key, caret = active?.type === "text" ? active.selectionStart : null, scrolled = window.scrollY;
  const before = new Map([...main.querySelectorAll("[data-key]")].map((one) => [one.dataset.key, one]));
  const log = other ? null : document.getElementById("log")?.textContent;
  main.replaceChildren(...parts);
  document.title = `${main.querySelector("h1")?.textContent || "ptft"} - ptft dashboard`;
  if (other) { window.scrollTo(0, 0); main.focus({ preventScroll: true }); return; }
  for (const one of main.querySelectorAll("[data-key]")) {
    const was = before.get(one.dataset.key);
    if (!was) continue;
    if (one.tagName === "DETAILS") one.open = was.open;
    if (one.type === "text") one.value = was.value;
    one.scrollTop = was.scrollTop;
    one.scrollLeft = was.scrollLeft;
  }
  if (log && document.getElementById("log")) document.getElementById("log").textContent = log;
  const focused = key && [...main.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  if (focused) focused.focus({ preventScroll: true });
  if (focused && caret !== null) focused.setSelectionRange(caret, caret);
  window.scrollTo(0, scrolled);
}

function step(by) {
  const rows = [...main.querySelectorAll("a.row")], at = rows.findIndex((row) => row === document.activeElement || row.closest("tr").contains(document.activeElement));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const does = {
    j: () => step(1), k: () => step(-1), g: () => { location.hash = "#/"; }, e: () => { location.hash = "#/experiments"; },
    "/": () => main.querySelector("form.filter input")?.focus(), "?": () => document.getElementById("keys").showModal(),
    p: () => { paused = !paused; show(); }, x: () => document.activeElement?.closest("tr")?.querySelector("input[type=checkbox]")?.click(),
  }[event.key];
  if (does) { event.preventDefault(); does(); }
});
document.getElementById("help").addEventListener("click", () => document.getElementById("keys").showModal());
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", () => show());
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) show(false); });
show();
